"""Passwords' hashes: argon2id with the library's parameters, in threads, never more than two at once.

Each takes 64 MiB while it is made or compared.
"""

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
"""Characters that are looked at: no password that was taken is longer, however it is typed."""


async def hash_password(password: str) -> str:
    """In PHC string form."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, _HASHER.hash, _bytes(password))


async def verify(password: str, password_hash: str | None) -> bool:
    """True when the hash is this password's. None, for a person who does not exist, takes as long and is False."""
    if password_hash is None:
        await hash_password(password)
        return False
    return await asyncio.get_running_loop().run_in_executor(_THREADS, _matches, password_hash, _bytes(password))


def is_outdated(password_hash: str) -> bool:
    """True when hashes are made with other parameters today."""
    return _HASHER.check_needs_rehash(password_hash)


def _matches(password_hash: str, password: bytes) -> bool:
    try:
        return _HASHER.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def _bytes(password: str) -> bytes:
    return normal_password(password[:_LONGEST]).encode(errors="surrogatepass")
