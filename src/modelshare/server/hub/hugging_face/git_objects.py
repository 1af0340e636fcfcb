"""Git's names of contents, as Hugging Face clients compare them. Pure."""

import hashlib

SMALL = 128 << 10
"""Bytes up to which a file is sent with the answer, and named as git names it; larger ones are LFS objects."""


def git_oid(content: bytes) -> str:
    """The name of a blob in git."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """What git has in place of an LFS object."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def is_large(size: int) -> bool:
    return size > SMALL


def folder_oid(path: str) -> str:
    """A name for a folder. Clients only show it."""
    return hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
