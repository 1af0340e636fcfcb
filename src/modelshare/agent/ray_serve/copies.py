"""Remembers which nodes may have a deployment's weights, until these are deleted there."""

from collections.abc import Collection
from pathlib import Path

import msgspec

from modelshare import private_files
from modelshare.agent.engines.base import EngineError
from modelshare.agent.ray_serve.messages import Copy
from modelshare.agent.ray_serve.settings import RaySettings


class Record(msgspec.Struct, frozen=True):
    settings: RaySettings
    copies: list[Copy] = []

    def lost(self, deleted: Collection[str]) -> list[str]:
        """The hosts whose copies are not among those that are deleted."""
        return sorted(copy.host for copy in self.copies if copy.id not in deleted)


class Copies:
    """The record of one deployment, in the agent's folder."""

    def __init__(self, state_dir: Path, deployment_id: str) -> None:
        self.file = state_dir / "ray" / f"{deployment_id}.json"

    def read(self) -> Record | None:
        """None if no node ever had them. Raises EngineError."""
        try:
            return msgspec.json.decode(self.file.read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise EngineError(f"{self.file} was written by another version of modelshare: {error}.") from error

    def add(self, settings: RaySettings, copy: Copy) -> None:
        """Call it before the node gets access to the weights."""
        known = self.read()
        others = [one for one in known.copies if one.id != copy.id] if known is not None else []
        private_files.folder(self.file.parent)
        private_files.replace(self.file, msgspec.json.encode(Record(settings, [*others, copy])))

    def clear(self) -> None:
        self.file.unlink(missing_ok=True)
