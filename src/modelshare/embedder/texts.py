"""What becomes of a text before it is computed: its prompt, its letters, its greatest length."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from modelshare.embedder.files import ModelFiles, UnreadableError, printable, truth, whole_number
from modelshare.embedder.modules import Module

MODEL_SETTINGS: Final = "config_sentence_transformers.json"
_TRANSFORMER_SETTINGS: Final = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""The first that says something counts, whatever the architecture."""
_HUGE: Final = 1 << 31
"""Tokenizers without a limit state one beyond any text."""
_FAMILY: Final = "SentenceTransformer"
_ALWAYS_THERE: Final = {"query": "", "document": ""}
"""Prompts that need no definition."""
_WITHOUT_EFFECT: Final = {
    "transformer_task": ("feature-extraction",),
    "module_output_name": ("token_embeddings",),
    "unpad_inputs": (True, False),
    "tokenizer_name_or_path": (),
}
"""Settings of a Transformer, and which of their values change nothing that is computed here."""
_OTHER_SETTINGS: Final = {
    *("max_seq_length", "do_lower_case", "modality_config", "processor_kwargs", "tokenizer_args"),
    *("query_length", "document_length", "query_expansion"),  # of requests that say what kind of text they hold
}
_ARGUMENTS: Final = {
    ("processor_kwargs", "tokenizer_args"): {"model_max_length", "padding_side", "use_fast", "trust_remote_code"},
    ("model_kwargs", "model_args"): {
        *("torch_dtype", "dtype", "attn_implementation", "device_map", "low_cpu_mem_usage"),
        *("add_pooling_layer", "trust_remote_code"),
    },
    ("config_kwargs", "config_args"): {"trust_remote_code"},
    ("processing_kwargs",): set[str](),
}
"""Under their new and old names, and what of them is understood here: the rest could change what is computed."""


@dataclass(frozen=True, slots=True)
class Texts:
    lowercases: bool
    most_tokens: int | None
    """Beyond it a text is cut off; None: the model declares no limit."""
    cuts_beginning: bool
    """What is too long loses its beginning, not its end."""
    unknown: tuple[str, ...]
    """Settings that may change the result in a way that is not known here."""


def read_texts(files: ModelFiles, transformer: Module) -> Texts:
    """What the Transformer's folder says. Raises UnreadableError."""
    path, settings = next(
        ((path, found) for name in _TRANSFORMER_SETTINGS if (found := files.settings(path := transformer.path(name)))),
        ("", {}),
    )
    arguments = [_arguments(path, settings, names) for names in _ARGUMENTS]
    unknown = [
        printable(f"{names[0]}.{key}")
        for names, given in zip(_ARGUMENTS, arguments, strict=True)
        for key in sorted(given.keys() - _ARGUMENTS[names])
    ]
    known = {*_OTHER_SETTINGS, *_WITHOUT_EFFECT, *(name for names in _ARGUMENTS for name in names)}
    unknown += [printable(key) for key in sorted(settings.keys() - known) if settings[key] is not None]
    unknown += [key for key, without in _WITHOUT_EFFECT.items() if settings.get(key) not in (None, *without)]
    if not _reads_text_plainly(settings.get("modality_config")):
        unknown.append("a modality_config, such as a chat template, between a text and its tokens")
    declared = whole_number(path, arguments[0], "model_max_length") or whole_number(path, settings, "max_seq_length")
    limit = declared or _limit_of_tokenizer(files, transformer)
    lowercases = truth(path, settings, "do_lower_case", default=False)
    return Texts(
        lowercases,
        limit if limit and limit < _HUGE else None,
        cuts_beginning=_cuts_beginning(files, transformer),
        unknown=tuple(unknown),
    )


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What `config_sentence_transformers.json` says."""

    family: str
    prompt: str
    """Put before every text."""
    optional_prompts: tuple[str, ...]
    """Names of those that are for callers to choose."""
    dimensions: int | None
    """A vector is cut off after as many."""

    @property
    def is_embedder(self) -> bool:
        return self.family == _FAMILY


def read_model_settings(files: ModelFiles) -> ModelSettings:
    """Raises UnreadableError."""
    settings = files.settings(MODEL_SETTINGS)
    prompts = settings.get("prompts") or {}
    name = settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(text is None or _is_text(text) for text in prompts.values()):
        raise UnreadableError(f"{MODEL_SETTINGS}: prompts do not map names to texts; save the model again.")
    if name is not None and (not isinstance(name, str) or name not in _ALWAYS_THERE | prompts):
        raise UnreadableError(f"{MODEL_SETTINGS}: the default prompt {printable(name)} is not among its prompts.")
    return ModelSettings(
        family=printable(settings.get("model_type") or _FAMILY),
        prompt=(_ALWAYS_THERE | prompts)[name] or "" if name is not None else "",
        optional_prompts=tuple(printable(key) for key, text in sorted(prompts.items()) if text and key != name),
        dimensions=whole_number(MODEL_SETTINGS, settings, "truncate_dim"),
    )


def _is_text(value: object) -> bool:
    """JSON may hold halves of characters, which no tokenizer takes."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _arguments(path: str, settings: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any]:
    given: Any = next((settings[name] for name in reversed(names) if settings.get(name) is not None), {})
    if not isinstance(given, dict):
        raise UnreadableError(f"{path}: {names[0]} is {printable(given)}, but must be an object.")
    return given


def _reads_text_plainly(modalities: object) -> bool:
    """Not through a chat template, and not by another layer than the last one."""
    if modalities is None:
        return True
    if not isinstance(modalities, dict) or "message" in modalities or not isinstance(modalities.get("text"), dict):
        return False
    text = modalities["text"]
    return text.get("method") == "forward" and text.get("method_output_name") in (
        "last_hidden_state",
        ["last_hidden_state"],
    )


def _cuts_beginning(files: ModelFiles, transformer: Module) -> bool:
    path = transformer.path("tokenizer_config.json")
    side = files.settings(path).get("truncation_side") or "right"
    if side not in ("left", "right"):
        raise UnreadableError(f"{path}: truncation_side is {printable(side)}, but must be left or right.")
    return bool(side == "left")


def _limit_of_tokenizer(files: ModelFiles, transformer: Module) -> int | None:
    path = transformer.path("tokenizer_config.json")
    of_tokenizer = whole_number(path, files.settings(path), "model_max_length")
    path = transformer.path("config.json")
    config = files.settings(path)
    unlimited = config.get("max_position_embeddings") == -1  # as XLNet has it
    of_network = None if unlimited else whole_number(path, config, "max_position_embeddings")
    return min((limit for limit in (of_tokenizer, of_network) if limit is not None), default=None)
