"""A project's own bucket, on rclone's S3 server."""

from pathlib import Path
from typing import Any

from changing_folders import files_below
from conftest import Tenant
from storage_servers import S3Server


def spec(server: S3Server, owner: Tenant, **fields: Any) -> dict[str, Any]:
    return {
        "url": f"s3://{server.bucket}/{owner.project.id}",
        "endpoint": server.endpoint,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
    } | fields


async def set_storage(server: S3Server, owner: Tenant, **fields: Any) -> dict[str, Any]:
    answer = await owner.http.put("/v1/storage", json=spec(server, owner, **fields))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def objects(bucket: Path) -> list[int]:
    """Sizes of the objects below a folder of the server."""
    return sorted(stat.st_size for stat in files_below(bucket).values())
