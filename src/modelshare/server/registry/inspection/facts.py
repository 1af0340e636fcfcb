"""The result of inspecting a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec


class Format(StrEnum):
    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    PICKLE = "pickle"


class Task(StrEnum):
    """What an endpoint of the model can do."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    OTHER = "other"


class Role(StrEnum):
    """The role of a file that contains tensors but is not among the weights to open."""

    ALTERNATIVE = "alternative"
    """Part of another model in the version, such as another quantization, which an endpoint may choose."""
    ADAPTER = "adapter"
    PROJECTOR = "projector"
    IMATRIX = "imatrix"
    """A calibration matrix that was used to quantize a model."""
    VOCABULARY = "vocabulary"
    CONTROL_VECTOR = "control vector"
    INDEX = "index"
    """An index of shards that are not opened."""
    OTHER = "other"
    """Other weights, which no engine here can open on their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A model among the files of a version: the files to open, and the facts sent to agents."""

    file: str  # names the choice: the first of `weights`
    root: str
    weights: tuple[str, ...]
    format: Format
    architecture: str | None
    parameters: int
    context_length: int | None
    quantization: str | None
    task: Task
    size: int  # bytes of its weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Derived facts; every text is printable and bounded, every number below 2^53. `None` or empty: not stated."""

    format: Format
    weights: tuple[str, ...]  # exactly the files that are opened, in order; the first lies beside the config.json
    root: str = ""  # the folder of the model within the version, "" is the top: engines are given what lies in it
    companions: Mapping[str, Role] = field(default_factory=dict)  # what else holds tensors; no engine opens it
    choices: tuple[Choice, ...] = ()  # all models among the files, this one first; empty where it is the only one
    architecture: str | None  # LlamaForCausalLM; GGUF's own names are translated where one is known
    model_type: str | None  # as written: config.json's model_type, GGUF's general.architecture
    family: str | None
    parameters: int  # 0: cannot be counted (pickle)
    context_length: int | None  # tokens
    quantization: str | None  # Q4_K_M, F32, BF16, fp8, awq-4bit
    dtypes: Mapping[str, int] = field(default_factory=dict)  # stored elements by type
    vocabulary_size: int | None = None
    has_chat_template: bool = False
    task: Task = Task.OTHER
    pipeline_tag: str | None = None
    library_name: str | None = None
    license: str | None = None
    tags: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    base_model: tuple[str, ...] = ()
    description: str | None = None  # the card's first plain paragraph
    card: str | None = None  # Markdown, without the front matter
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON without floats, lists for tuples."""
        fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return fields

    def for_manifest(self) -> dict[str, Any]:
        """The immutable part: without texts, which the owner may edit, and the licence, a field of the manifest
        itself."""
        editable = {"card", "description", "warnings", "license"}
        return {name: value for name, value in self.to_dict().items() if name not in editable}
