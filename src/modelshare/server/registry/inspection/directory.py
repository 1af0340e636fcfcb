"""Inspects a version as a whole: which of its files make up the model, in any format, and its facts.

Only this module decides it: engines open exactly the `weights` in the facts.
"""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from modelshare.server.registry.inspection import gguf, safetensors
from modelshare.server.registry.inspection.adapters import ADAPTER_CONFIG, base_of
from modelshare.server.registry.inspection.candidates import Candidate, order
from modelshare.server.registry.inspection.card import ModelCard, find_card
from modelshare.server.registry.inspection.companions import alone, is_of_other_form, notes
from modelshare.server.registry.inspection.facts import Choice, Facts, Format, Role, Task
from modelshare.server.registry.inspection.gguf_model import read_gguf
from modelshare.server.registry.inspection.pickles import find_pickles
from modelshare.server.registry.inspection.reader import RangeReader
from modelshare.server.registry.inspection.safetensors_model import pickle_model, read_safetensors
from modelshare.server.registry.paths import check_paths
from modelshare.server.registry.refused import ModelRejectedError, printable

MAX_CHOICES: Final = 64
_NO_WEIGHTS = (
    "The directory contains no weights; push one that has .safetensors or .gguf files (convert other formats to "
    "one of these first)."
)


def inspect(files: Mapping[str, RangeReader], *, allow_pickle: bool = False, file: str | None = None) -> Facts:
    """The facts about the model in `files`; if there are several, the one that `file` is part of, or else the first by
    `candidates.order`. Raises ModelRejectedError for content that cannot be published.

    Reads the header of every weights file. A damaged one is an error if it is part of the model, and in GGUF also if
    its metadata say that it is a model.
    """
    check_paths(files)
    pickles = find_pickles(files, allow=allow_pickle)
    card = find_card(files)
    models, companions, damaged = _models(files, pickles, card)
    described = _described((models if file is None else _with_first(models, file))[:MAX_CHOICES])
    if file is None:  # prefer a model that an engine can serve
        described.sort(key=lambda each: each[1].task is Task.OTHER)
    (candidate, facts), *others = described
    alternatives = [(each, its) for each, its in others if _can_be_chosen(each, its)]
    companions = _beside(files, candidate, [each for each, _ in alternatives], pickles) | companions
    facts = replace(
        facts,
        companions=dict(sorted(companions.items())),
        choices=tuple(_choice(its, files) for its in (facts, *(its for _, its in alternatives)))
        if alternatives
        else (),
        warnings=(
            *facts.warnings,
            *_notes(facts, len(alternatives)),
            *notes(companions),
            *(refused.reason for path, refused in damaged.items() if path in companions),
        ),
    )
    return _with_card(facts, find_card(files, facts.root) if facts.root else card)


def _models(
    files: Mapping[str, RangeReader], pickles: Sequence[str], card: ModelCard
) -> tuple[list[Candidate], dict[str, Role], Mapping[str, ModelRejectedError]]:
    """Returns the models (at least one, preferred ones first), the roles of other weights files, and errors of damaged
    safetensors files.
    """
    models, companions, damaged = read_safetensors(files, _ending(files, safetensors.EXTENSION), card.pipeline_tag)
    adapter = next(iter(companions), None)
    ggufs, others, refusal = read_gguf(files, _ending(files, gguf.EXTENSION), card.pipeline_tag)
    models += ggufs
    if not models and pickles:
        models.append(pickle_model(files, pickles, card.pipeline_tag))
    if not models and refusal is not None:
        raise refusal
    if not models:
        if adapter is None:
            raise ModelRejectedError(_NO_WEIGHTS)
        base = base_of(adapter, files) or next(iter(card.base_model), None)
        raise alone(adapter, companions[adapter], base)
    return sorted(models, key=order), companions | others, damaged


def _with_first(models: Sequence[Candidate], file: str) -> list[Candidate]:
    named = next((each for each in models if file in each.files), None)
    if named is None:
        known = ", ".join(printable(each.weights[0]) for each in models[:5])
        raise ModelRejectedError(f"{printable(file)}, which `file` selects, is not a model; choose one of: {known}.")
    return [named, *(each for each in models if each is not named)]


def _described(models: Sequence[Candidate]) -> list[tuple[Candidate, Facts]]:
    """The models with their facts. Raises errors of the first model; drops others that have errors."""
    found = [(models[0], models[0].facts())]
    for each in models[1:]:
        try:
            found.append((each, each.facts()))
        except ModelRejectedError:
            continue
    return found


def _beside(
    files: Mapping[str, RangeReader], chosen: Candidate, alternatives: Sequence[Candidate], pickles: Sequence[str]
) -> dict[str, Role]:
    """Other files that engines could mistake for weights, or for evidence of weights."""
    roles = {}
    for path in files:
        name = path.lower()
        if path in chosen.files:
            continue
        if any(path in each.files for each in alternatives):
            roles[path] = Role.ALTERNATIVE
        elif name.endswith(safetensors.INDEX_EXTENSION):
            roles[path] = Role.INDEX
        elif posixpath.basename(path) == ADAPTER_CONFIG:
            roles[path] = Role.ADAPTER
        elif name.endswith((safetensors.EXTENSION, gguf.EXTENSION)) or path in pickles or is_of_other_form(path, files):
            roles[path] = Role.OTHER
    return roles


def _can_be_chosen(candidate: Candidate, facts: Facts) -> bool:
    return facts.task is not Task.OTHER and (candidate.format is Format.GGUF or candidate.has_config)


def _choice(facts: Facts, files: Mapping[str, RangeReader]) -> Choice:
    return Choice(
        file=facts.weights[0],
        root=facts.root,
        weights=facts.weights,
        format=facts.format,
        architecture=facts.architecture,
        parameters=facts.parameters,
        context_length=facts.context_length,
        quantization=facts.quantization,
        task=facts.task,
        size=sum(files[path].size for path in facts.weights),
    )


def _notes(facts: Facts, alternatives: int) -> tuple[str, ...]:
    if not alternatives:
        return ()
    return (
        f"Of {alternatives + 1} models here, {printable(facts.weights[0])} is the one described and run. Choose "
        "another with `--file` when you push, or with `file` at an endpoint.",
    )


def _with_card(facts: Facts, card: ModelCard) -> Facts:
    """`facts` with the fields of the card, which take precedence over the metadata of weights files."""
    return replace(
        facts,
        license=card.license or facts.license,
        tags=card.tags,
        languages=card.languages,
        datasets=card.datasets,
        base_model=card.base_model,
        pipeline_tag=card.pipeline_tag,
        library_name=card.library_name,
        description=card.description or facts.description,
        card=card.body,
        warnings=(*facts.warnings, *card.warnings),
    )


def _ending(files: Mapping[str, RangeReader], extension: str) -> list[str]:
    return sorted(path for path in files if path.lower().endswith(extension))
