"""What engines that read sentence-transformers' files themselves make of them: which models they would get wrong.

vLLM 0.33: `get_pooling_config` in https://github.com/vllm-project/vllm/blob/main/vllm/transformers_utils/config.py.
SGLang 0.5 reads none of them: https://docs.sglang.ai/supported_models/embedding_models.html.
"""

from typing import Final

from modelshare.agent.engines.base import EngineKind
from modelshare.embedder import Embedder

_KNOWN_TO_VLLM: Final = frozenset(
    f"sentence_transformers.{name}"
    for name in (
        *("models.Pooling", "sentence_transformer.modules.pooling.Pooling"),
        *("models.Normalize", "base.modules.normalize.Normalize", "sentence_transformer.modules.normalize.Normalize"),
        *("models.Dense", "base.modules.dense.Dense"),
    )
)


def unsuited(embedder: Embedder | None, *, has_tokenizer: bool) -> dict[EngineKind, str]:
    """A sentence for each engine that would not compute what the model declares. `has_tokenizer`: the agent can make
    the tokens of texts itself."""
    if embedder is None:
        return {}
    reasons = {EngineKind.VLLM: _not_by_vllm(embedder), EngineKind.SGLANG: _not_by_sglang(embedder)}
    if not has_tokenizer and (embedder.prompt or embedder.lowercases):
        reasons = dict.fromkeys(
            reasons, "it has no tokenizer.json, which the agent needs to prepare texts for this engine."
        )
    return {kind: reason for kind, reason in reasons.items() if reason}


def _not_by_vllm(embedder: Embedder) -> str | None:
    if embedder.obstacle:
        return embedder.obstacle
    if embedder.transformer:
        return "its Transformer is in a separate folder, where vLLM does not look for it."
    if not embedder.types:
        return "it has no modules.json, which vLLM needs to read the pooling."
    if unknown := next((type_ for type_ in embedder.types[1:] if type_ not in _KNOWN_TO_VLLM), None):
        return f"vLLM does not support its module {unknown}."
    kinds = [layer.kind for layer in embedder.layers]
    if embedder.dimensions or kinds != sorted(kinds, key=lambda kind: kind == "Normalize"):
        return "vLLM supports Dense layers followed by normalization, and nothing after that."
    return None


def _not_by_sglang(embedder: Embedder) -> str | None:
    kinds = [layer.kind for layer in embedder.layers]
    plain = embedder.obstacle is None and not embedder.transformer and embedder.dimensions is None
    if not plain or embedder.pooling != "lasttoken" or kinds != ["Normalize"]:
        return "SGLang ignores its pooling, and always takes the last token's vector, normalized."
    return None
