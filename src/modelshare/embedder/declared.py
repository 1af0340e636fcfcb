"""An embedding model as a whole, and what of it cannot be computed exactly here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modelshare.embedder.files import ModelFiles, UnreadableError, printable
from modelshare.embedder.layers import Layer, read_layer
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
_LAYERS: Final = frozenset({"Dense", "LayerNorm", "Normalize"})


@dataclass(frozen=True, slots=True)
class Embedder:
    transformer: str
    """The folder of the Transformer, relative to the model's; empty where it lies at its top."""
    pooling: str
    """One of `POOLINGS`, unless there is an obstacle."""
    layers: tuple[Layer, ...]
    """What comes after the pooling, in order."""
    dimensions: int | None
    """A vector is cut off after as many numbers."""
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

    @property
    def only_normalizes(self) -> bool:
        """Whether there is nothing after the pooling but normalization, or not even that."""
        return self.dimensions is None and all(layer.kind == "Normalize" for layer in self.layers)


def read_embedder(files: ModelFiles) -> Embedder | None:
    """None for a model that is not of sentence-transformers. Raises UnreadableError for declarations that are lost."""
    modules = read_modules(files)
    if modules is None:
        return None
    first = modules[0] if modules and modules[0].kind == "Transformer" else None
    poolings = [_pooling(files, module) for module in modules if module.kind == "Pooling"]
    if first and not files.has(first.path("config.json")):
        raise UnreadableError(f"{MODULES} needs {printable(first.path('config.json'))}, which is missing; push it too.")
    layers = [read_layer(files, module) for module in modules if module.kind in _LAYERS]
    texts = read_texts(files, first) if first else _NO_TEXTS
    settings = read_model_settings(files)
    return Embedder(
        transformer=first.folder if first else "",
        pooling=poolings[0].modes[0] if poolings and poolings[0].modes else "",
        layers=tuple(layer for layer in layers if isinstance(layer, Layer)),
        dimensions=settings.dimensions,
        lowercases=texts.lowercases,
        prompt=settings.prompt,
        most_tokens=texts.most_tokens,
        cuts_beginning=texts.cuts_beginning,
        types=tuple(module.type for module in modules) if files.has(MODULES) else (),
        optional_prompts=settings.optional_prompts,
        obstacle=_family(settings)
        or _order(modules)
        or _not_pooled(poolings[0], settings)
        or _not_understood((*texts.unknown, *poolings[0].unknown))
        or next((layer for layer in layers if isinstance(layer, str)), None),
    )


def _pooling(files: ModelFiles, module: Module) -> Pooling:
    path = module.path("config.json")
    if not files.has(path):
        raise UnreadableError(f"{MODULES} needs {printable(path)}, which is missing; push it too.")
    try:
        return read_pooling(path, files.settings(path))
    except UnreadableError:
        if files.has(MODULES):
            raise
        return _LOST  # nothing says that the model is to be pooled by it


def _family(settings: ModelSettings) -> str | None:
    if settings.is_embedder:
        return None
    return f"it is a {settings.family} of sentence-transformers, which does not produce embeddings of texts."


def _order(modules: Sequence[Module]) -> str | None:
    """A Transformer, a Pooling, then layers: what does nothing after training is passed over."""
    if not modules:
        return f"its {MODULES} lists no modules."
    if foreign := next((module for module in modules if not module.kind), None):
        return f"it requires custom code ({foreign.type}), which no engine here runs."
    kinds = [module.kind for module in modules if module.kind != "Dropout"]
    if kinds[0] != "Transformer":
        return f"it begins with {printable(kinds[0])} instead of a Transformer, which no engine here supports."
    if kinds[1:2] != ["Pooling"]:
        return "its Transformer is not followed by a Pooling, which engines need to turn a text into one vector."
    other = next((kind for kind in kinds[2:] if kind not in _LAYERS), None)
    return f"it has a {printable(other)} after the Pooling, which no engine here supports." if other else None


def _not_pooled(pooling: Pooling, settings: ModelSettings) -> str | None:
    if not pooling.modes:
        return f"its pooling cannot be read, and {MODULES}, which describes it, is missing."
    if len(pooling.modes) > 1:
        return f"it combines several poolings ({', '.join(pooling.modes)}), and engines compute one."
    if pooling.modes[0] not in POOLINGS:
        return f"its pooling is {pooling.modes[0]}, and engines support only mean, cls and lasttoken."
    if settings.prompt and not pooling.includes_prompt:
        return "its pooling excludes its default prompt, which no engine here supports."
    return None


def _not_understood(unknown: Sequence[str]) -> str | None:
    return f"it sets {unknown[0]}, whose effect on the vectors is unknown." if unknown else None
