"""Facts of a model in GGUF form."""

from collections import Counter
from collections.abc import Mapping, Sequence

from modelshare.server.registry.inspection.facts import Facts, Format
from modelshare.server.registry.inspection.family import architecture_of_gguf, family_of
from modelshare.server.registry.inspection.gguf import Header, Tensor
from modelshare.server.registry.inspection.gguf_split import group_shards
from modelshare.server.registry.inspection.gguf_types import FILE_TYPES, INTEGER_TENSOR_TYPES
from modelshare.server.registry.inspection.plain import plain_text, positive_integer
from modelshare.server.registry.inspection.task import task_of
from modelshare.server.registry.refused import Refused, shown

# enum llama_pooling_type: 0 none, 1 mean, 2 first token, 3 last token, 4 rank
_NO_POOLING, _RANK_POOLING = 0, 4
_COMPANIONS = frozenset({"clip", "wavtokenizer-dec"})  # projectors and decoders that a model is loaded with


def facts_of_gguf(headers: Mapping[str, Header], pipeline_tag: str | None) -> Facts:
    """Facts of the first model among these files, in the order of their names; a projector beside it is no model."""
    groups = group_shards(headers)
    for group in groups:
        _check_whole(group, headers)
    models = [group for group in groups if not _is_companion(headers[group[0]])] or groups
    weights = models[0]
    header = headers[weights[0]]
    tensors = [tensor for path in weights for tensor in headers[path].tensors]
    model_type = plain_text(header.text("general.architecture"), 100)
    architecture = architecture_of_gguf(model_type) if model_type else None
    pooling = header.integer(f"{model_type}.pooling_type") or _NO_POOLING
    has_chat_template = bool(header.text("tokenizer.chat_template"))
    return Facts(
        format=Format.GGUF,
        weights=weights,
        architecture=architecture,
        model_type=model_type,
        family=family_of(model_type),
        parameters=sum(tensor.elements for tensor in tensors if tensor.dtype not in INTEGER_TENSOR_TYPES),
        context_length=positive_integer(header.integer(f"{model_type}.context_length")),
        quantization=_quantization(header, tensors),
        dtypes=_elements_by_type(tensors),
        vocabulary_size=header.length("tokenizer.ggml.tokens"),
        has_chat_template=has_chat_template,
        task=task_of(
            architecture,
            pools=pooling not in {_NO_POOLING, _RANK_POOLING},
            reranks=pooling == _RANK_POOLING,
            has_chat_template=has_chat_template,
            pipeline_tag=pipeline_tag,
        ),
        license=plain_text(header.text("general.license")),
        description=plain_text(header.text("general.description"), 500),
        warnings=_warnings(models, weights),
    )


def _check_whole(group: Sequence[str], headers: Mapping[str, Header]) -> None:
    if not any(headers[path].tensors for path in group):
        raise Refused(f"{shown(group[0])} holds no tensors (a vocabulary only); push the file that has the weights.")
    if not headers[group[0]].text("general.architecture"):
        raise Refused(f"{shown(group[0])} does not state its general.architecture; export it with a current tool.")


def _is_companion(header: Header) -> bool:
    return header.text("general.architecture") in _COMPANIONS or header.text("general.type") in {
        "mmproj",
        "adapter",
        "imatrix",
    }


def _quantization(header: Header, tensors: Sequence[Tensor]) -> str | None:
    stated = (
        FILE_TYPES.get(header.integer("general.file_type") or 0) if "general.file_type" in header.metadata else None
    )
    elements = _elements_by_type(tensors)
    return stated or max(sorted(elements), key=elements.__getitem__, default=None)


def _elements_by_type(tensors: Sequence[Tensor]) -> dict[str, int]:
    elements = Counter[str]()
    for tensor in tensors:
        elements[tensor.dtype] += tensor.elements
    return dict(sorted(elements.items()))


def _warnings(models: Sequence[Sequence[str]], chosen: Sequence[str]) -> tuple[str, ...]:
    if len(models) == 1:
        return ()
    return (f"Of {len(models)} GGUF models here, {chosen[0]} is the one described and run; push each by itself.",)
