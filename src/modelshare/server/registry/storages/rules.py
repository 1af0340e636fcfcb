"""What a project may set as its storage, and what it needs there. Pure."""

import re
from typing import Any, Final
from urllib.parse import urlsplit

from modelshare.server import public_addresses

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MAX_PREFIX: Final = 500
"""Bytes; S3 allows keys of 1,024."""
_IN_ARN: Final = re.compile(r"[*?$]")
"""Characters that have a meaning in a policy."""
_EXAMPLE: Final = "https://s3.example.org"
_LIMITS: Final = "A storage must have a public address, unless the operator sets `storage_allow_private`."
_OBJECT_ACTIONS: Final = (
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
)
_BUCKET_ACTIONS: Final = ("s3:ListBucket", "s3:ListBucketMultipartUploads")


def split(url: str) -> tuple[str, str] | None:
    """Bucket and prefix of `s3://bucket/prefix`; None for anything else."""
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if scheme != "s3" or not _BUCKET.fullmatch(bucket) or ".." in bucket or len(prefix.encode()) > _MAX_PREFIX:
        return None
    # S3 has no folders, but clients and proxies shorten such paths.
    is_plain = prefix.isprintable() and not {"", ".", ".."} & set(prefix.split("/"))
    return (bucket, prefix) if not prefix or is_plain else None


def joined(bucket: str, prefix: str) -> str:
    return f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"


def is_below(url: str, other: str) -> bool:
    return url == other or url.startswith(f"{other}/")


def endpoint_refusal(endpoint: str, *, allow_private: bool) -> str | None:
    """Why the platform must not connect there, as far as the text tells."""
    if refusal := public_addresses.url_refusal(endpoint, allow_private=allow_private, example=_EXAMPLE, limits=_LIMITS):
        return refusal
    parts = urlsplit(endpoint)
    if "@" in parts.netloc or parts.query or parts.fragment or parts.path.strip("/"):
        return f"The endpoint must be a URL without user, path and query, such as {_EXAMPLE}."
    return None


def external_id(project_id: str) -> str:
    """Nobody can choose it, so that no other project can have the platform assume this project's role."""
    return f"modelshare-{project_id}"


def iam_policy(bucket: str, prefix: str) -> dict[str, Any]:
    below = _IN_ARN.sub(r"${\g<0>}", prefix) + "/*" if prefix else "*"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": list(_BUCKET_ACTIONS), "Resource": [f"arn:aws:s3:::{bucket}"]},
            {"Effect": "Allow", "Action": list(_OBJECT_ACTIONS), "Resource": [f"arn:aws:s3:::{bucket}/{below}"]},
        ],
    }


def cors(origin: str) -> list[dict[str, Any]]:
    """For browsers that upload; parts are completed from the platform's own list, so no header has to be exposed."""
    return [{"AllowedOrigins": [origin], "AllowedMethods": ["GET", "PUT"], "AllowedHeaders": ["*"]}]
