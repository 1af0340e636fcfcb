"""Finds models in Hugging Face format (config.json, tokenizer, weights in safetensors), and their facts."""

import functools
import posixpath
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from modelshare.embedder import Embedder
from modelshare.server.registry.inspection.candidates import Candidate
from modelshare.server.registry.inspection.companions import role_of_safetensors
from modelshare.server.registry.inspection.config import Config, declared_weights, read_config
from modelshare.server.registry.inspection.embedding import embedder_of, embedder_warnings
from modelshare.server.registry.inspection.facts import Facts, Format, Role
from modelshare.server.registry.inspection.family import family_of
from modelshare.server.registry.inspection.modules import Modules, modules_of
from modelshare.server.registry.inspection.quantization import count_parameters, stored_as
from modelshare.server.registry.inspection.reader import RangeReader
from modelshare.server.registry.inspection.safetensors import Tensor, read_header
from modelshare.server.registry.inspection.task import task_of
from modelshare.server.registry.inspection.tokenizer import Tokenizer, read_tokenizer
from modelshare.server.registry.inspection.weight_sets import Headers, WeightSet, check_numbering, sets_of_folder
from modelshare.server.registry.refused import ModelRejectedError

_CONFIG = "config.json"
_NO_CONFIG = Config(
    architecture=None,
    model_type=None,
    context_length=None,
    vocabulary_size=None,
    dtype=None,
    scheme=None,
    needs_own_code=False,
)


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """The facts from files other than the weights."""

    config: Config
    tokenizer: Tokenizer
    embedder: Embedder | None


def read_safetensors(
    files: Mapping[str, RangeReader], paths: Sequence[str], pipeline_tag: str | None
) -> tuple[list[Candidate], dict[str, Role], Mapping[str, ModelRejectedError]]:
    """Returns the models among these files, in no particular order; the roles of the other files; and errors of damaged
    files, which matter only if the model that they are part of is described. Raises ModelRejectedError if shards are
    missing.
    """
    tensors, damaged = _headers(files, paths)
    roles = {path: role_of_safetensors(path, tensors[path], files) for path in paths}
    weights = [path for path in sorted(paths) if roles[path] is None]
    headers = Headers({path: tensors[path] for path in weights}, damaged)
    check_numbering(weights)
    modules = {each.transformer: each for each in modules_of(files, weights)}
    taken = {path for each in modules.values() for path in each.layers}
    surroundings = _surroundings_in(files)
    models: list[Candidate] = []
    for folder in sorted({posixpath.dirname(path) for path in weights}, key=lambda folder: (folder.count("/"), folder)):
        here = [path for path in weights if posixpath.dirname(path) == folder and path not in taken]
        first, *others = _sets(folder, here, files, headers) if here else [None]
        if first is not None:
            taken.update(first.weights)
            place = modules.get(folder) or Modules(folder, folder)
            same = [each for each in others if each is not None and _is_another_form(each, first, headers)]
            candidate = functools.partial(_candidate, files, surroundings, place, headers, pipeline_tag)
            models.append(candidate(first))
            models += [candidate(each, is_variant=True) for each in same]
    return models, {path: role for path, role in roles.items() if role is not None}, damaged


def _sets(folder: str, here: Sequence[str], files: Mapping[str, RangeReader], headers: Headers) -> list[WeightSet]:
    """The sets of weights: the one that config.json names first, like in Transformers, then by name."""
    sets = sets_of_folder(folder, here, files, headers)
    config = posixpath.join(folder, _CONFIG)
    named = posixpath.join(folder, declared_weights(config, files[config])) if config in files else ""
    return sorted(sets, key=lambda each: named not in (*each.weights, each.index))


def _headers(
    files: Mapping[str, RangeReader], paths: Sequence[str]
) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, ModelRejectedError]]:
    tensors: dict[str, Mapping[str, Tensor]] = {}
    damaged: dict[str, ModelRejectedError] = {}
    for path in paths:
        try:
            tensors[path] = read_header(path, files[path])
        except ModelRejectedError as refused:
            tensors[path], damaged[path] = {}, refused
    return tensors, damaged


def _is_another_form(each: WeightSet, first: WeightSet, headers: Headers) -> bool:
    """Whether it is a variant of the same model, for example in half precision, or may be one but cannot be read."""
    return each.refused is not None or set(headers.names(each.weights)) == set(headers.names(first.weights))


def _candidate(
    files: Mapping[str, RangeReader],
    surroundings: Callable[[Modules], _Surroundings],
    place: Modules,
    headers: Headers,
    pipeline_tag: str | None,
    chosen: WeightSet,
    *,
    is_variant: bool = False,
) -> Candidate:
    weights = (*chosen.weights, *place.layers)
    tensors = [tensor for path in weights for tensor in headers.tensors[path].values()]
    refused = chosen.refused or headers.fault(place.layers)

    def facts() -> Facts:
        if refused is not None:
            raise refused
        return _facts(surroundings(place), place, weights, tensors, pipeline_tag, chosen.notes)

    return Candidate(
        format=Format.SAFETENSORS,
        root=place.root,
        weights=weights,
        index=chosen.index,
        has_config=posixpath.join(place.transformer, _CONFIG) in files,
        facts=facts,
        is_variant=is_variant,
    )


def pickle_model(files: Mapping[str, RangeReader], pickles: Sequence[str], pipeline_tag: str | None) -> Candidate:
    """A model with pickled weights, described by the other files; the pickles are not read."""
    warning = "The weights are Python pickles, which can run code when loaded; their parameters are not counted."
    folder, weights = posixpath.dirname(pickles[0]), tuple(pickles)
    place, surroundings = Modules(folder, folder), _surroundings_in(files)
    return Candidate(
        format=Format.PICKLE,
        root=folder,
        weights=weights,
        facts=lambda: _facts(surroundings(place), place, weights, [], pipeline_tag, (warning,)),
    )


def _surroundings_in(files: Mapping[str, RangeReader]) -> Callable[[Modules], _Surroundings]:
    """Reads them once for all models of a folder, since that may take seconds. Raises ModelRejectedError."""

    @functools.cache
    def read(place: Modules) -> _Surroundings | ModelRejectedError:
        path = posixpath.join(place.transformer, _CONFIG)
        try:
            return _Surroundings(
                read_config(path, files[path]) if path in files else _NO_CONFIG,
                read_tokenizer(place.transformer, files),
                embedder_of(files, place.root),
            )
        except ModelRejectedError as refused:
            return refused

    def surroundings(place: Modules) -> _Surroundings:
        found = read(place)
        if isinstance(found, ModelRejectedError):
            raise found
        return found

    return surroundings


def _facts(
    surroundings: _Surroundings,
    place: Modules,
    weights: tuple[str, ...],
    tensors: Sequence[Tensor],
    pipeline_tag: str | None,
    warnings: tuple[str, ...],
) -> Facts:
    config, tokenizer, embedder = surroundings.config, surroundings.tokenizer, surroundings.embedder
    model_type = config.model_type
    task = task_of(
        config.architecture,
        pools=embedder is not None,
        reranks=False,
        has_chat_template=tokenizer.has_chat_template,
        pipeline_tag=pipeline_tag,
    )
    return Facts(
        format=Format.SAFETENSORS if tensors else Format.PICKLE,
        root=place.root,
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
            *_config_warnings(posixpath.join(place.transformer, _CONFIG), config),
            *embedder_warnings(embedder, task, config.architecture),
        ),
    )


def _elements_by_dtype(tensors: Sequence[Tensor]) -> dict[str, int]:
    elements = Counter[str]()
    for tensor in tensors:
        elements[tensor.dtype] += tensor.elements
    return dict(sorted(elements.items()))


def _config_warnings(path: str, config: Config) -> tuple[str, ...]:
    if config is _NO_CONFIG:
        return (f"There is no {path}, so the architecture is unknown and most engines cannot load the model.",)
    if config.needs_own_code:
        own_code = f"{path} requires the model's own Python code (auto_map), which no engine here runs."
        return (own_code, *config.warnings)
    return config.warnings
