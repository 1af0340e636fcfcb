"""The platform's secret: its requirements, and the file that holds a generated one."""

import secrets
from pathlib import Path
from typing import Final

from modelshare import private_files

LENGTH: Final = 32
"""Minimum in bytes: the 256 bits of HMAC-SHA256."""
_NOTHING: Final = b"0\0 \t\r\n"
"""Content of a file or variable that was never filled in."""
_NAME: Final = "secret.key"


def check(secret: bytes) -> None:
    """Raises ValueError for a secret that could be guessed."""
    given = secret.strip() if secret.isascii() else secret  # raw bytes may end with the code of a space
    if len(given) < LENGTH or not secret.strip(_NOTHING):
        raise ValueError(
            f"a secret must have at least {LENGTH} random bytes, which are not blanks or zeros; create one with "
            "`openssl rand -hex 32`"
        )


def path(data_dir: Path) -> Path:
    """Path of the generated secret."""
    return data_dir / _NAME


def of_folder(data_dir: Path) -> bytes:
    """The secret of this folder, generated on first use, once even for concurrent callers.

    Raises ValueError as `check` does, and OSError.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = path(data_dir)
    if file.exists():
        private_files.tighten(file)
        secret = file.read_bytes()
    else:
        secret = private_files.create(file, secrets.token_hex(32).encode())
    check(secret)
    return secret
