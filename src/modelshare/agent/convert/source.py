"""What can be said about a Hugging Face folder by its JSON files alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


class ConversionError(Exception):
    """The model cannot be converted; the text is one sentence for people."""


Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """A model's folder. Files that are absent read as empty."""

    folder: Path
    config: Json
    tokenizer: Json
    tokenizer_config: Json
    generation_config: Json
    pooling: Json
    """`1_Pooling/config.json` of sentence-transformers."""
    modules: tuple[str, ...]
    """What sentence-transformers runs, in order: `Transformer`, `Pooling`, `Normalize`, ..."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises ConversionError for files that are no JSON."""
        modules = _read(folder / "modules.json", [])
        return cls(
            folder,
            _read(folder / "config.json", {}),
            _read(folder / "tokenizer.json", {}),
            _read(folder / "tokenizer_config.json", {}),
            _read(folder / "generation_config.json", {}),
            _read(folder / "1_Pooling" / "config.json", {}),
            tuple(str(module["type"]).rpartition(".")[2] for module in modules),
        )

    @property
    def architecture(self) -> str:
        names = self.config.get("architectures") or [""]
        return str(names[0])

    @property
    def rope(self) -> Json:
        """Rotary embedding: type, base and scaling, wherever this age of config.json puts them."""
        given = self.config.get("rope_parameters") or self.config.get("rope_scaling") or {}
        return {
            **given,
            "type": given.get("rope_type", given.get("type", "default")),
            "base": float(given.get("rope_theta") or self.config.get("rope_theta") or 10000.0),
        }

    @property
    def chat_template(self) -> str | None:
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        given = self.tokenizer_config.get("chat_template")
        if isinstance(given, list):
            given = {entry["name"]: entry["template"] for entry in given}.get("default")
        return given

    def special_token(self, role: str) -> str | None:
        """The text of `bos_token` and the like."""
        given = self.tokenizer_config.get(role)
        return given.get("content") if isinstance(given, dict) else given


def _read(path: Path, absent: Any) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return absent
    except ValueError as error:
        raise ConversionError(f"{path.name} is not valid JSON.") from error
