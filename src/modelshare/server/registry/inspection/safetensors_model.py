"""Facts of a model in Hugging Face form: config.json, a tokenizer, and weights in safetensors."""

import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from modelshare.server.registry.inspection.config import Config, read_config
from modelshare.server.registry.inspection.embedding import embedder_of, embedder_warnings
from modelshare.server.registry.inspection.facts import Facts, Format
from modelshare.server.registry.inspection.family import family_of
from modelshare.server.registry.inspection.quantization import count_parameters, stored_as
from modelshare.server.registry.inspection.reader import RangeReader
from modelshare.server.registry.inspection.safetensors import INDEX_EXTENSION, Tensor, shards_of_index
from modelshare.server.registry.inspection.task import task_of
from modelshare.server.registry.inspection.tokenizer import read_tokenizer
from modelshare.server.registry.refused import Refused, shown

_SHARD = re.compile(r"(?P<prefix>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.safetensors")
# A layer of a sentence-transformers model, such as 2_Dense
_SENTENCE_LAYER = re.compile(r"[0-9]+_[A-Za-z]+/model\.safetensors")
_NO_CONFIG = Config(
    architecture=None,
    model_type=None,
    context_length=None,
    vocabulary_size=None,
    dtype=None,
    scheme=None,
    needs_own_code=False,
)

Headers = Mapping[str, Mapping[str, Tensor]]


def facts_of_directory(files: Mapping[str, RangeReader], headers: Headers, pipeline_tag: str | None) -> Facts:
    """Facts of the model at the root of `files`, or in its first folder with weights; refuses lost shards."""
    weights, warnings = _weights(files, headers)
    tensors = [tensor for path in weights for tensor in headers[path].values()]
    return _facts(files, weights, tensors, pipeline_tag, warnings)


def facts_of_pickles(files: Mapping[str, RangeReader], pickles: Sequence[str], pipeline_tag: str | None) -> Facts:
    """Facts of a model whose weights are pickles, from the files around them; the pickles stay unread."""
    warning = "The weights are Python pickles, which can run code when loaded; their parameters are not counted."
    return _facts(files, tuple(pickles), [], pipeline_tag, (warning,))


def _facts(
    files: Mapping[str, RangeReader],
    weights: tuple[str, ...],
    tensors: Sequence[Tensor],
    pipeline_tag: str | None,
    warnings: tuple[str, ...],
) -> Facts:
    folder = posixpath.dirname(weights[0])
    config_path = posixpath.join(folder, "config.json")
    config = read_config(config_path, files[config_path]) if config_path in files else _NO_CONFIG
    tokenizer = read_tokenizer(folder, files)
    model_type = config.model_type
    embedder = embedder_of(files)
    task = task_of(
        config.architecture,
        pools=embedder is not None,
        reranks=False,
        has_chat_template=tokenizer.has_chat_template,
        pipeline_tag=pipeline_tag,
    )
    return Facts(
        format=Format.SAFETENSORS if tensors else Format.PICKLE,
        weights=weights,
        architecture=config.architecture,
        model_type=model_type,
        family=family_of(model_type),
        parameters=count_parameters(tensors, config.scheme),
        context_length=config.context_length,
        quantization=config.scheme.label if config.scheme else stored_as(tensors),
        dtypes=_elements_by_dtype(tensors),
        vocabulary_size=tokenizer.vocabulary_size or config.vocabulary_size,
        has_chat_template=tokenizer.has_chat_template,
        task=task,
        warnings=(
            *warnings,
            *_config_warnings(config_path, config),
            *embedder_warnings(embedder, task, config.architecture),
        ),
    )


def _weights(files: Mapping[str, RangeReader], headers: Headers) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files that hold the model, in order, and what to warn of: as Transformers picks them, an index goes first."""
    indexed = {
        index: shards_of_index(index, files, headers) for index in sorted(files) if index.endswith(INDEX_EXTENSION)
    }
    _check_numbering(headers)
    folder = min((posixpath.dirname(path) for path in headers), key=lambda folder: (folder.count("/"), folder))
    here = tuple(path for path in sorted(headers) if posixpath.dirname(path) == folder)
    layers = tuple(path for path in sorted(headers) if _SENTENCE_LAYER.fullmatch(path) and path not in here)
    single = posixpath.join(folder, "model.safetensors")
    index = next((index for index in indexed if posixpath.dirname(index) == folder), None)
    if index is not None:
        return (*indexed[index], *layers), ()
    if single in headers:
        return (single, *layers), ()
    warning = f"There is no {posixpath.join(folder, 'model' + INDEX_EXTENSION)} to order the weight files by."
    return (*here, *layers), (warning,) if len(here) > 1 else ()


def _check_numbering(headers: Headers) -> None:
    """Refuse shards 1 and 3 of 3, also where no index says so."""
    shards = [shard for path in sorted(headers) if (shard := _SHARD.fullmatch(path))]
    for prefix, count in sorted({(shard["prefix"], shard["count"]) for shard in shards}):
        for number in range(1, int(count) + 1):
            wanted = f"{prefix}-{number:05}-of-{count}.safetensors"
            if wanted not in headers:
                raise Refused(f"{shown(wanted)} is missing, one of {int(count)} shards; push all of them.")


def _elements_by_dtype(tensors: Sequence[Tensor]) -> dict[str, int]:
    elements = Counter[str]()
    for tensor in tensors:
        elements[tensor.dtype] += tensor.elements
    return dict(sorted(elements.items()))


def _config_warnings(path: str, config: Config) -> tuple[str, ...]:
    if config is _NO_CONFIG:
        return (f"There is no {path}, so the architecture is unknown and most engines cannot load the model.",)
    if config.needs_own_code:
        return (f"{path} asks for Python code of the model's own (auto_map), which no engine here will run.",)
    return ()
