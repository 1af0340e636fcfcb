"""Remembers which nodes may have a deployment's weights, until these are deleted there."""

from collections.abc import Collection
from pathlib import Path

import msgspec

from modelshare import private_files
from modelshare.agent.engines.base import EngineError
from modelshare.agent.ray_serve.messages import Copy
from modelshare.agent.ray_serve.settings import RaySettings


class Made(msgspec.Struct, frozen=True):
    """Copies that were made with the same settings: later ones may be of another cluster or folder."""

    settings: RaySettings
    copies: list[Copy]

    def lost(self, deleted: Collection[str]) -> list[str]:
        """The hosts whose copies are not among those that are deleted."""
        return sorted(copy.host for copy in self.copies if copy.id not in deleted)


class Copies:
    """The record of one deployment, in the agent's folder."""

    def __init__(self, state_dir: Path, deployment_id: str) -> None:
        self.file = state_dir / "ray" / f"{deployment_id}.json"

    def read(self) -> list[Made]:
        """Empty if no node has them. Raises EngineError."""
        try:
            return msgspec.json.decode(self.file.read_bytes(), type=list[Made])
        except FileNotFoundError:
            return []
        except msgspec.DecodeError as error:
            raise EngineError(f"{self.file} was written by another version of modelshare: {error}.") from error

    def add(self, settings: RaySettings, copy: Copy) -> None:
        """Call it before the node gets access to the weights."""
        known = self.read()
        same = [one for made in known if made.settings == settings for one in made.copies if one != copy]
        others = [made for made in known if made.settings != settings]
        private_files.folder(self.file.parent)
        private_files.replace(self.file, msgspec.json.encode([*others, Made(settings, [*same, copy])]))

    def remove(self, deleted: Made) -> None:
        if left := [made for made in self.read() if made != deleted]:
            private_files.replace(self.file, msgspec.json.encode(left))
        else:
            self.file.unlink(missing_ok=True)
