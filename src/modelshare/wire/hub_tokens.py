"""Tokens as Hugging Face clients take them: `hf_` and letters and digits, since llama.cpp drops every other."""

import re
from typing import Final

PREFIX: Final = "hf_"
ENDPOINT_TOKEN_LENGTH: Final = 40
_ENDPOINT_TOKEN = re.compile(rf"{PREFIX}[A-Za-z0-9]{{{ENDPOINT_TOKEN_LENGTH}}}")
_KEY = re.compile(rf"{PREFIX}((?:[0-9a-f]{{2}})+)")
_KEY_PREFIX = b"ms"
_LONGEST = 253
"""Characters that llama.cpp takes after the prefix."""


def is_endpoint_token(token: str) -> bool:
    return _ENDPOINT_TOKEN.fullmatch(token) is not None


def token_of(key: str) -> str:
    """An API key in this form: the hexadecimal digits of its characters."""
    return f"{PREFIX}{key.encode().hex()}"


def key_of(token: str) -> str | None:
    """The API key that `token_of` made this of; None for any other text."""
    match = _KEY.fullmatch(token) if len(token) <= len(PREFIX) + _LONGEST else None
    key = bytes.fromhex(match[1]) if match else b""
    return key.decode() if key.startswith(_KEY_PREFIX) and key.isascii() else None
