"""Git object IDs, which Hugging Face clients compare. Pure."""

import hashlib

SMALL = 128 << 10
"""Maximum bytes of a file that is sent inline and identified by its git object ID; larger files are LFS objects."""


def git_oid(content: bytes) -> str:
    """The object ID of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """The LFS pointer file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def is_large(size: int) -> bool:
    return size > SMALL


def folder_oid(path: str) -> str:
    """An ID for a folder, which clients only display."""
    return hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
