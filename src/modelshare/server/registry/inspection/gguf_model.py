"""Finds models in GGUF format, and their facts."""

import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence

from modelshare.server.registry.inspection import gguf
from modelshare.server.registry.inspection.adapters import base_of_gguf
from modelshare.server.registry.inspection.candidates import Candidate
from modelshare.server.registry.inspection.companions import alone, role_by_name, role_of_gguf
from modelshare.server.registry.inspection.facts import Facts, Format, Role
from modelshare.server.registry.inspection.family import architecture_of_gguf, family_of
from modelshare.server.registry.inspection.gguf import Header, Tensor
from modelshare.server.registry.inspection.gguf_loading import check_types
from modelshare.server.registry.inspection.gguf_split import group_shards, is_part
from modelshare.server.registry.inspection.gguf_types import FILE_TYPES, INTEGER_TENSOR_TYPES
from modelshare.server.registry.inspection.plain import plain_text, positive_integer
from modelshare.server.registry.inspection.reader import RangeReader
from modelshare.server.registry.inspection.task import task_of
from modelshare.server.registry.refused import ModelRejectedError, printable

# enum llama_pooling_type: 0 none, 1 mean, 2 first token, 3 last token, 4 rank
_NO_POOLING, _RANK_POOLING = 0, 4


def read_gguf(
    files: Mapping[str, RangeReader], paths: Sequence[str], pipeline_tag: str | None
) -> tuple[list[Candidate], dict[str, Role], ModelRejectedError | None]:
    """Returns the models among these files, in no particular order; the roles of the other files; and why the first of
    those is not a model.

    Raises ModelRejectedError for a damaged file, unless its readable part shows that it is not a model.
    """
    headers: dict[str, Header] = {}
    companions: dict[str, Role] = {}
    refusals: dict[str, ModelRejectedError] = {}
    for path in paths:
        examined = gguf.examine(path, files[path])
        if role := _role(path, examined):
            companions[path], refusals[path] = (
                role,
                examined.refused or alone(path, role, base_of_gguf(examined.header)),
            )
        headers[path] = examined.header
    models = []
    for group in group_shards({path: header for path, header in headers.items() if path not in companions}):
        if not_a_model := _not_a_model(group, headers):
            companions |= dict.fromkeys(group, not_a_model[0])
            refusals |= dict.fromkeys(group, not_a_model[1])
        else:
            models.append(_candidate(group, headers, pipeline_tag))
    return models, companions, next((refusals[path] for path in sorted(refusals)), None)


def _role(path: str, examined: gguf.Examined) -> Role | None:
    """None for a model, or a part of one. Raises ModelRejectedError for a damaged file that claims to be one."""
    role = role_of_gguf(examined.header)
    if role is not None or examined.refused is None:
        return role
    is_empty = examined.tensor_count == 0 and bool(examined.header.metadata)
    if role := Role.VOCABULARY if is_empty else role_by_name(path):
        return role
    if examined.header.text("general.architecture") or is_part(path):
        raise examined.refused
    return Role.OTHER


def _not_a_model(group: Sequence[str], headers: Mapping[str, Header]) -> tuple[Role, ModelRejectedError] | None:
    first = group[0]
    if not any(headers[path].tensors for path in group):
        return Role.VOCABULARY, alone(first, Role.VOCABULARY)
    if not headers[first].text("general.architecture"):
        why = f"{printable(first)} does not set general.architecture; export it with a current tool."
        return Role.OTHER, ModelRejectedError(why)
    return None


def _candidate(weights: tuple[str, ...], headers: Mapping[str, Header], pipeline_tag: str | None) -> Candidate:
    root = posixpath.dirname(weights[0])
    return Candidate(
        format=Format.GGUF,
        root=root,
        weights=weights,
        facts=lambda: _facts(root, weights, headers, pipeline_tag),
    )


def _facts(root: str, weights: tuple[str, ...], headers: Mapping[str, Header], pipeline_tag: str | None) -> Facts:
    header = headers[weights[0]]
    check_types(weights[0], header)
    tensors = [tensor for path in weights for tensor in headers[path].tensors]
    model_type = plain_text(header.text("general.architecture"), 100)
    architecture = architecture_of_gguf(model_type) if model_type else None
    context_length = positive_integer(header.integer(f"{model_type}.context_length"))
    pooling = header.integer(f"{model_type}.pooling_type") or _NO_POOLING
    has_chat_template = bool(header.text("tokenizer.chat_template"))
    return Facts(
        format=Format.GGUF,
        root=root,
        weights=weights,
        architecture=architecture,
        model_type=model_type,
        family=family_of(model_type),
        parameters=sum(tensor.elements for tensor in tensors if tensor.dtype not in INTEGER_TENSOR_TYPES),
        context_length=context_length,
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
        warnings=() if context_length else (_no_context(weights[0], model_type),),
    )


def _no_context(file: str, model_type: str | None) -> str:
    """The error for a missing context length, which GGUF files of image and speech programs lack, for example."""
    return (
        f"No default engine can serve this model: {printable(file)} does not set {model_type}.context_length, which "
        "llama.cpp needs."
    )


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
