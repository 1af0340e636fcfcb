"""Hashes passwords: argon2id with the library's parameters, in threads, at most two at once, since each needs 64
MiB."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from modelshare.server.accounts.rules import normal_password

_HASHER: Final = PasswordHasher()
AT_ONCE: Final = 2
_THREADS: Final = ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="password")
_LONGEST: Final = 4096
"""Characters that are hashed; no accepted password is longer in any Unicode form."""


async def hash_password(password: str) -> str:
    """In PHC string form."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, _HASHER.hash, _bytes(password))


async def verify(password: str, password_hash: str | None) -> bool:
    """Whether the password matches. With None, for a person who does not exist, takes the same time and returns
    False."""
    if password_hash is None:
        await hash_password(password)
        return False
    return await asyncio.get_running_loop().run_in_executor(_THREADS, _matches, password_hash, _bytes(password))


def is_outdated(password_hash: str) -> bool:
    """Whether the hash has other parameters than new ones."""
    return _HASHER.check_needs_rehash(password_hash)


def _matches(password_hash: str, password: bytes) -> bool:
    try:
        return _HASHER.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def _bytes(password: str) -> bytes:
    return normal_password(password[:_LONGEST]).encode(errors="surrogatepass")
