"""Reads the JSON files of a Hugging Face folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from modelshare.agent.convert.values import ConversionError, Json, mapping, number, printable
from modelshare.embedder import Embedder, ModelFiles, UnreadableError, read_embedder

GGUF_ARCHITECTURES: Final = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "LlamaModel": "llama",
    "MistralModel": "llama",
    "Qwen2Model": "qwen2",
    "Qwen3Model": "qwen3",
    "BertModel": "bert",
}
"""A `...Model` lacks the output head, so it cannot generate."""


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A model's folder. Missing files are read as empty."""

    folder: Path
    """The folder of config.json and the weights."""
    config: Json
    tokenizer: Json
    tokenizer_config: Json
    generation_config: Json
    embedder: Embedder | None = None
    """Set if the model was saved by sentence-transformers."""

    @classmethod
    def read(cls, root: Path) -> Self:
        """Reads the model folder `root`. Raises ConversionError for files that cannot be read."""
        embedder = embedder_in(root)
        folder = root / embedder.transformer if embedder else root
        return cls(
            folder,
            _read(folder / "config.json"),
            _read(folder / "tokenizer.json"),
            _read(folder / "tokenizer_config.json"),
            _read(folder / "generation_config.json"),
            embedder,
        )

    @property
    def architecture(self) -> str:
        names = self.config.get("architectures")
        return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""

    @property
    def gguf_architecture(self) -> str:
        """The architecture's GGUF name, if it can be converted."""
        return GGUF_ARCHITECTURES[self.architecture]

    @property
    def is_bert(self) -> bool:
        return self.architecture == "BertModel"

    @property
    def is_headless(self) -> bool:
        return not self.architecture.endswith("ForCausalLM")

    @property
    def rope(self) -> Json:
        """Type, base and scaling of the rotary embedding, for all versions of config.json."""
        given = mapping(self.config, "rope_parameters") or mapping(self.config, "rope_scaling")
        if any(isinstance(value, dict) for value in given.values()):
            raise ConversionError("its rotary embeddings differ between layers, which is not converted to GGUF.")
        base = number(given, "rope_theta", number(self.config, "rope_theta", 10000.0))
        return {**given, "type": given.get("rope_type", given.get("type", "default")), "base": base}

    @property
    def chat_template(self) -> str | None:
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        given = self.tokenizer_config.get("chat_template")
        if isinstance(given, list):
            given = {entry["name"]: entry["template"] for entry in given}.get("default")
        if not isinstance(given, str | None):
            raise ConversionError(f"its chat template is {printable(given)}, but must be a text.")
        return given

    def special_token(self, role: str) -> str | None:
        """The text of `bos_token` and similar tokens."""
        given = self.tokenizer_config.get(role)
        given = given.get("content") if isinstance(given, dict) else given
        if not isinstance(given, str | None):
            raise ConversionError(f"its {role} is {printable(given)}, but must be a text.")
        return given


def embedder_in(root: Path) -> Embedder | None:
    """What the model in the folder `root` declares about its vectors. Raises ConversionError."""

    def read(path: str, limit: int) -> bytes:
        with (root / path).open("rb") as file:
            return file.read(limit)

    paths = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    try:
        return read_embedder(ModelFiles(paths, read))
    except UnreadableError as error:
        raise ConversionError(str(error)) from error


def _read(path: Path) -> Json:
    try:
        found: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path.name} is not valid JSON.") from error
    if not isinstance(found, dict):
        raise ConversionError(f"{path.name} does not contain a JSON object.")
    return found
