"""Secrets at rest: AES-256-GCM with keys that are not in the database.

A sealed value reads `<key id>.<base64 of nonce and ciphertext>`. What it is about (such as project and storage) is
associated data: a value that is copied to another row does not open there. The first key seals, all of them open.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from modelshare import private_files
from modelshare.server.settings import Settings, SettingsError

_KEY: Final = re.compile("[0-9a-f]{64}")
_NONCE: Final = 12
_NAME: Final = "sealing.key"
_FORM: Final = "each key must have 64 hex digits; create one with `openssl rand -hex 32`"


class SealedError(Exception):
    """A sealed value cannot be opened; the message says why, for the operator."""


class Keyring:
    """The keys of these settings, else those of a file in the data folder, which is created when it is first needed."""

    def __init__(self, settings: Settings) -> None:
        """SettingsError for invalid keys."""
        self._file = settings.data_dir / _NAME
        given = settings.secret_keys
        self._given = _parse(given.get_secret_value(), "secret_keys") if given is not None else None

    def seal(self, value: str, about: Sequence[str]) -> str:
        key = self._keys()[0]
        nonce = secrets.token_bytes(_NONCE)
        sealed = AESGCM(key).encrypt(nonce, value.encode(), _associated(about))
        return f"{_id(key)}.{base64.b64encode(nonce + sealed).decode()}"

    def open(self, sealed: str, about: Sequence[str]) -> str:
        """Raises SealedError if no key fits, or if the value was sealed about something else."""
        key_id, _, encoded = sealed.partition(".")
        key = next((each for each in self._keys() if _id(each) == key_id), None)
        if key is None:
            raise SealedError(
                f"The key {key_id} that encrypted a secret is missing. Restore {_NAME} in the data folder, or add the "
                "key to `secret_keys`."
            )
        content = base64.b64decode(encoded)
        try:
            return AESGCM(key).decrypt(content[:_NONCE], content[_NONCE:], _associated(about)).decode()
        except InvalidTag as error:
            raise SealedError("A secret in the database was changed, or belongs to another row.") from error

    def add_key(self) -> None:
        """Where the keys are in the data folder: from now on a new one seals."""
        if self._given is None:
            self._write([secrets.token_bytes(32), *self._keys()])

    def forget_old(self) -> None:
        """Keeps the key before the newest, which a running process may just have sealed with."""
        if self._given is None:
            self._write(self._keys()[:2])

    def _write(self, keys: Sequence[bytes]) -> None:
        private_files.replace(self._file, "\n".join(key.hex() for key in keys).encode())

    def _keys(self) -> list[bytes]:
        if self._given is not None:
            return self._given
        try:
            if self._file.exists():  # read each time: another process may have rotated the keys
                private_files.tighten(self._file)
                content = self._file.read_bytes()
            else:
                self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                content = private_files.create(self._file, secrets.token_hex(32).encode())
        except OSError as error:
            raise SealedError(f"{self._file} cannot be read or created: {error.strerror}.") from error
        return _parse(content.decode("ascii", errors="replace"), str(self._file))


def _parse(text: str, source: str) -> list[bytes]:
    keys = [key.lower() for key in text.replace(",", " ").split()]
    if not keys or not all(map(_KEY.fullmatch, keys)):
        raise SettingsError(f"Invalid setting `{source}`: {_FORM}.")
    return [bytes.fromhex(key) for key in keys]


def _id(key: bytes) -> str:
    return hashlib.sha256(b"modelshare sealing key id 1" + key).hexdigest()[:8]


def _associated(about: Sequence[str]) -> bytes:
    return "\n".join(("modelshare sealed 1", *about)).encode()
