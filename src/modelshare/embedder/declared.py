"""An embedding model as a whole, and what of it cannot be computed exactly here."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Final

from modelshare.embedder.files import ModelFiles, UnreadableError, shown
from modelshare.embedder.modules import MODULES, Module, read_modules
from modelshare.embedder.pooling import Pooling, read_pooling
from modelshare.embedder.texts import ModelSettings, Texts, read_model_settings, read_texts

ARCHITECTURES: Final = (
    *("BertModel", "LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model"),
    *("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
)
"""Those whose vectors the engines of the default set compute."""
POOLINGS: Final = frozenset({"mean", "cls", "lasttoken"})
"""What engines compute."""
_LOST: Final = Pooling(modes=(), includes_prompt=True, unknown=())
_NO_TEXTS: Final = Texts(lowercases=False, most_tokens=None, cuts_beginning=False, unknown=())
_SENTENCE: Final = "sentence_embedding"
_WITH_WEIGHTS: Final = frozenset({"Dense", "LayerNorm"})


@dataclass(frozen=True, slots=True)
class Embedder:
    transformer: str
    """The folder of the Transformer, relative to the model's; empty where it lies at its top."""
    layers: tuple[str, ...]
    """Folders of what has weights of its own, after the pooling."""
    pooling: str
    """One of `POOLINGS`, unless there is an obstacle."""
    normalizes: bool
    """Vectors have the length 1; else they come as pooling leaves them."""
    lowercases: bool
    prompt: str
    """Put before every text."""
    most_tokens: int | None
    """Beyond it a text is cut off."""
    cuts_beginning: bool
    """What is too long loses its beginning, not its end."""
    types: tuple[str, ...]
    """Of its modules in order, as `modules.json` writes them; none where that file is missing."""
    optional_prompts: tuple[str, ...]
    obstacle: str | None
    """Why no engine of the default set computes it exactly, in a sentence that begins with its subject; None: one does.
    """
    needs_dense: bool = False
    """The only obstacle is Dense layers after the Pooling, which other engines compute."""


def read_embedder(files: ModelFiles) -> Embedder | None:
    """None for a model that is not of sentence-transformers. Raises UnreadableError for declarations that are lost."""
    modules = read_modules(files)
    if modules is None:
        return None
    first = modules[0] if modules and modules[0].kind == "Transformer" else None
    poolings = [_pooling(files, module) for module in modules if module.kind == "Pooling"]
    if first and not files.has(first.path("config.json")):
        raise UnreadableError(f"{MODULES} needs {shown(first.path('config.json'))}, which is missing; push it too.")
    layers = tuple(_layer(files, module) for module in modules if module.kind in _WITH_WEIGHTS)
    texts = read_texts(files, first) if first else _NO_TEXTS
    settings = read_model_settings(files)
    found = Embedder(
        transformer=first.folder if first else "",
        layers=layers,
        pooling=poolings[0].modes[0] if poolings and poolings[0].modes else "",
        normalizes=any(module.kind == "Normalize" for module in modules),
        lowercases=texts.lowercases,
        prompt=settings.prompt,
        most_tokens=texts.most_tokens,
        cuts_beginning=texts.cuts_beginning,
        types=tuple(module.type for module in modules) if files.has(MODULES) else (),
        optional_prompts=settings.optional_prompts,
        obstacle=None,
    )

    def obstacle(passed_over: Container[str]) -> str | None:
        return (
            _family(settings)
            or _order(files, [module for module in modules if module.kind not in passed_over])
            or _not_pooled(poolings[0], settings)
            or _not_understood((*texts.unknown, *poolings[0].unknown))
            or _cut(settings)
        )

    told = obstacle({"Dropout"})
    return replace(found, obstacle=told, needs_dense=told is not None and obstacle({"Dropout", "Dense"}) is None)


def _pooling(files: ModelFiles, module: Module) -> Pooling:
    path = module.path("config.json")
    if not files.has(path):
        raise UnreadableError(f"{MODULES} needs {shown(path)}, which is missing; push it too.")
    try:
        return read_pooling(path, files.settings(path))
    except UnreadableError:
        if files.has(MODULES):
            raise
        return _LOST  # nothing says that the model is to be pooled by it


def _layer(files: ModelFiles, module: Module) -> str:
    if not files.has(module.path("config.json")):
        raise UnreadableError(f"{MODULES} needs {shown(module.path('config.json'))}, which is missing; push it too.")
    if not any(files.has(module.path(name)) for name in ("model.safetensors", "pytorch_model.bin")):
        raise UnreadableError(
            f"{MODULES} needs {shown(module.path('model.safetensors'))}, which is missing; push it too."
        )
    return module.folder


def _family(settings: ModelSettings) -> str | None:
    if settings.is_embedder:
        return None
    return f"it is a {settings.family} of sentence-transformers, whose answers are no embeddings of texts."


def _order(files: ModelFiles, modules: Sequence[Module]) -> str | None:
    """A Transformer, a Pooling, then at most Normalize."""
    if not modules:
        return f"its {MODULES} lists no modules."
    if foreign := next((module for module in modules if not module.kind), None):
        return f"it asks for code of its own ({foreign.type}), which no engine here runs."
    kinds = [module.kind for module in modules]
    if kinds[0] != "Transformer":
        return f"it begins with {shown(kinds[0])} in place of a Transformer, which no engine here computes."
    if kinds[1:2] != ["Pooling"]:
        return "its Transformer is not followed by a Pooling, which engines need to make one vector of a text."
    if other := next((kind for kind in kinds[2:] if kind != "Normalize"), None):
        return f"it has a {shown(other)} layer after the Pooling, which no engine here computes exactly."
    odd = (module for module in modules if module.kind == "Normalize" and not _normalizes_sentences(files, module))
    return "its Normalize layer works on something else than the text's vector." if any(odd) else None


def _normalizes_sentences(files: ModelFiles, module: Module) -> bool:
    # Without a folder of its own it would read the Transformer's configuration, which names none of these.
    settings = files.settings(module.path("config.json"))
    source = settings.get("module_input_name", _SENTENCE)
    return source == _SENTENCE and settings.get("module_output_name") in (None, _SENTENCE)


def _not_pooled(pooling: Pooling, settings: ModelSettings) -> str | None:
    if not pooling.modes:
        return f"its pooling cannot be read, and {MODULES}, which tells what it is for, is missing."
    if len(pooling.modes) > 1:
        return f"it joins several poolings ({', '.join(pooling.modes)}), and engines compute one."
    if pooling.modes[0] not in POOLINGS:
        return f"its pooling is {pooling.modes[0]}, and engines compute mean, cls and lasttoken only."
    if settings.prompt and not pooling.includes_prompt:
        return "its pooling leaves its default prompt out, which no engine here does."
    return None


def _not_understood(unknown: Sequence[str]) -> str | None:
    return f"it sets {unknown[0]}, whose effect on its vectors is not known here." if unknown else None


def _cut(settings: ModelSettings) -> str | None:
    if settings.dimensions is None:
        return None
    return f"it cuts its vectors off after {settings.dimensions} numbers (truncate_dim), which no engine here does."
