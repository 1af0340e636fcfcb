"""The agent's data folder: used by one agent at a time, and where its identity is stored."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from modelshare import private_files
from modelshare.agent.errors import StopError


class Identity(msgspec.Struct, frozen=True):
    """The agent's identity, as assigned by the server."""

    agent_id: str
    token: str
    verdict_key: Annotated[str, msgspec.Meta(pattern=r"^(?:[0-9a-f]{64})?\Z")] = ""
    """Key that signs the verdict that the agent was removed. Empty if not known yet."""


@contextlib.contextmanager
def lock_data_dir(data_dir: Path) -> Iterator[None]:
    """Locks the folder. Raises StopError if another agent uses it."""
    file = data_dir / "agent.lock"
    try:
        descriptor = private_files.lock(file)
    except BlockingIOError:
        raise StopError(
            f"Another agent (process {file.read_text(errors='replace').strip()}) is running on {data_dir}. "
            "Stop it, or use another --data-dir."
        ) from None
    except OSError as error:
        raise StopError(f"Cannot use {data_dir}: {error.strerror}. Choose another --data-dir.") from error
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def load_identity(data_dir: Path) -> Identity | None:
    """The identity from an earlier enrollment. Raises StopError if it cannot be read."""
    path = identity_path(data_dir)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StopError(
            f"{path} is damaged. Delete it, and start the agent with a new join key, or run `modelshare hold` again."
        ) from error


def identity_path(data_dir: Path) -> Path:
    return data_dir / _NAME


def save_identity(data_dir: Path, identity: Identity) -> None:
    """Stores it, readable only by this user."""
    private_files.replace(identity_path(data_dir), msgspec.json.encode(identity))


def forget_identity(data_dir: Path) -> None:
    """Deletes the identity, since it is no longer valid."""
    identity_path(data_dir).unlink(missing_ok=True)


_NAME = "identity.json"
