"""Derives a model's task from its files."""

from modelshare.server.registry.inspection.facts import Task

_EMBEDDING_TAGS = frozenset({"sentence-similarity", "feature-extraction"})
_ENCODERS = ("BertModel", "RobertaModel", "MPNetModel", "ElectraModel", "T5EncoderModel", "Gemma3TextModel", "NeoBERT")
_GENERATORS = ("ForCausalLM", "LMHeadModel")
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification", "ForMaskedLM", "ForQuestionAnswering")


def task_of(
    architecture: str | None,
    *,
    pools: bool,
    reranks: bool,
    has_chat_template: bool,
    pipeline_tag: str | None,
) -> Task:
    """`pools`: the files declare how to pool token vectors into one; `reranks`: that vector is a score.

    Pooling is checked first, since embedding models made from chat models often keep the chat template.
    """
    name = architecture or ""
    if reranks or name.endswith(_CLASSIFIERS):
        return Task.OTHER
    if pools or pipeline_tag in _EMBEDDING_TAGS:
        return Task.EMBEDDING
    if has_chat_template:
        return Task.CHAT
    if name.endswith(_GENERATORS):
        return Task.COMPLETION
    headless_language_model = name.endswith(("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model"))
    return Task.EMBEDDING if name.endswith(_ENCODERS) or headless_language_model else Task.OTHER
