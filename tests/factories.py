"""Creates rows directly in the database, as the platform would have written them."""

import hashlib
import uuid

from modelshare.server.app import Application
from modelshare.server.registry.tables import BlobRow, FileRow, ModelRow, VersionRow

MANIFEST = (
    b'{"created":1,"facts":{},"files":[{"path":"model.gguf","sha256":"%s","size":1000}],"license":null,"name":"tiny",'
    b'"schema_version":1,"total_bytes":1000,"version":"1.0.0"}'
)


async def make_model(
    app: Application,
    project_id: str,
    *,
    name: str = "tiny",
    status: str = "ready",
    size: int = 1000,
    version: str = "1.0.0",
    family: str = "llama",
    parameters: int = 1_000_000,
    tags: tuple[str, ...] = ("chat",),
    license: str = "apache-2.0",  # noqa: A002 - the product's word
) -> uuid.UUID:
    """Creates a model with one version and one file that is not in storage; returns its id."""
    ready = status == "ready"
    async with app.database.write() as session:
        now = app.platform.now()
        model = ModelRow(
            project_id=project_id,
            name=name,
            tags=list(tags),
            license=license,
            created_at=now,
            description=f"About {name}",
        )
        session.add(model)
        await session.flush()
        digest = hashlib.sha256(f"{model.id}".encode()).hexdigest()
        row = VersionRow(
            model_id=model.id,
            version=version,
            status=status,
            status_reason="It holds no weights." if status == "failed" else None,
            is_latest=ready,
            manifest=MANIFEST % digest.encode() if ready else None,
            manifest_digest=f"sha256:{digest}" if ready else None,
            size_bytes=size,
            format="gguf",
            architecture=family,
            family=family,
            parameters=parameters,
            context_length=2048,
            quantization="F32",
            task="chat",
            created_at=now,
        )
        session.add(row)
        session.add(
            BlobRow(project_id=project_id, sha256=digest, size=size, key=f"{project_id}/x/{name}", created_at=now)
        )
        await session.flush()
        session.add(FileRow(version_id=row.id, path="model.gguf", project_id=project_id, sha256=digest, size=size))
        return model.id


async def add_version(
    app: Application, model: uuid.UUID, version: str, status: str = "ready", *, family: str | None = None
) -> None:
    """Adds a version without files that is not the latest."""
    ready = status == "ready"
    async with app.database.write() as session:
        session.add(
            VersionRow(
                model_id=model,
                version=version,
                status=status,
                manifest=MANIFEST % hashlib.sha256(version.encode()).hexdigest().encode() if ready else None,
                manifest_digest=f"sha256:{version}" if ready else None,
                size_bytes=1000,
                format="gguf",
                family=family,
                task="chat",
                created_at=app.platform.now(),
            )
        )
