"""Inspection of a model as a whole: the files of one directory, however they are stored."""

from collections.abc import Mapping
from dataclasses import replace

from modelshare.server.registry.inspection import gguf, safetensors
from modelshare.server.registry.inspection.card import Card, read_card
from modelshare.server.registry.inspection.facts import Facts
from modelshare.server.registry.inspection.gguf_model import facts_of_gguf
from modelshare.server.registry.inspection.pickles import find_pickles
from modelshare.server.registry.inspection.reader import RangeReader
from modelshare.server.registry.inspection.safetensors_model import facts_of_directory, facts_of_pickles
from modelshare.server.registry.paths import check_paths
from modelshare.server.registry.refused import Refused


def inspect(files: Mapping[str, RangeReader], *, allow_pickle: bool = False) -> Facts:
    """The facts of the model that `files` make up; raises `Refused` for content that must not be shared.

    Every weight file's header is checked, also of those that the facts are not read from.
    """
    check_paths(files)
    pickles = find_pickles(files, allow=allow_pickle)
    safetensors_headers = {
        path: safetensors.read_header(path, files[path]) for path in _ending(files, safetensors.EXTENSION)
    }
    gguf_headers = {path: gguf.read_header(path, files[path]) for path in _ending(files, gguf.EXTENSION)}
    card = read_card("README.md", files["README.md"]) if "README.md" in files else Card()

    if safetensors_headers and ("config.json" in files or not gguf_headers):
        facts = facts_of_directory(files, safetensors_headers, card.pipeline_tag)
    elif gguf_headers:
        facts = facts_of_gguf(gguf_headers, card.pipeline_tag)
    elif pickles:
        facts = facts_of_pickles(files, pickles, card.pipeline_tag)
    else:
        raise Refused(
            "The directory holds no weights; push one that has .safetensors or .gguf files "
            "(convert other formats to one of these first)."
        )
    return _described(facts, card)


def _described(facts: Facts, card: Card) -> Facts:
    """`facts` with what the card says, which goes before what a weight file says about itself."""
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
