"""The platform's one secret: what will do as one, and the file of one that nobody set."""

import secrets
from pathlib import Path
from typing import Final

from modelshare import private_files

LENGTH: Final = 32
"""Bytes at least: 256 bits, as many as the HMAC-SHA256 that is made with it."""
_NOTHING: Final = b"0\0 \t\r\n"
"""What a file or variable holds that was never filled in."""
_NAME: Final = "secret.key"


def check(secret: bytes) -> None:
    """ValueError with a sentence for one that somebody could guess."""
    given = secret.strip() if secret.isascii() else secret  # raw bytes may well end in that of a blank
    if len(given) < LENGTH or not secret.strip(_NOTHING):
        raise ValueError(
            f"a secret must have at least {LENGTH} random bytes, which are not blanks or zeros; create one with "
            "`openssl rand -hex 32`"
        )


def path(data_dir: Path) -> Path:
    """Where the secret lies that nobody set."""
    return data_dir / _NAME


def of_folder(data_dir: Path) -> bytes:
    """The secret of this folder, made on first use: one for all who ask at once. ValueError as `check`; OSError."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = path(data_dir)
    if file.exists():
        private_files.tighten(file)
        secret = file.read_bytes()
    else:
        secret = private_files.create(file, secrets.token_hex(32).encode())
    check(secret)
    return secret
