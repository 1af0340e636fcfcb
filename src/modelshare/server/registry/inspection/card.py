"""The model card: README.md with YAML front matter, as the Hugging Face Hub reads it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from modelshare.server.registry.inspection.plain import plain_lines, plain_text, plain_texts
from modelshare.server.registry.inspection.reader import RangeReader, head

_MAX_FILE_BYTES = 1 << 20
_MAX_FRONT_MATTER = 256 << 10  # characters; cards with evaluation tables reach 150,000
_MAX_MARKS = 30_000  # of YAML; each costs the loader up to 20 microseconds
_MAX_BODY = 100_000  # characters
_MAX_DESCRIPTION = 500  # characters
_MAX_TAGS = 100

_FRONT_MATTER = re.compile(r"---[ \t]*\n(?:(.*?)\n)?---[ \t]*(?:\n|$)", re.DOTALL)
_MARKS = "\n,:?[{&*!"
_FENCE = re.compile(r" {0,3}(```|~~~)")
# Headings, quotes, lists, tables, HTML, rules, images, and lines that are nothing but a link
_NOT_PROSE = re.compile(r" {4}|\s*([#>|<]|[-*+]\s|\d{1,9}[.)]\s|!\[|\[!\[|([-*_=]\s*){3,}$|\[[^\]]*\]\([^)]*\)$)")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
_HTML_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_EMPHASIS = re.compile(r"\*\*|__|`|(?<!\w)[*_](?=\w)|(?<=\w)[*_](?!\w)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    license: str | None = None
    tags: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    base_model: tuple[str, ...] = ()
    pipeline_tag: str | None = None
    library_name: str | None = None
    description: str | None = None
    body: str | None = None
    warnings: tuple[str, ...] = ()


def read_card(name: str, reader: RangeReader) -> Card:
    """The card in `name`; whatever is wrong with it becomes a warning, for a card is prose and stops no engine."""
    text = plain_lines(head(reader, _MAX_FILE_BYTES).decode(errors="replace").removeprefix("\ufeff"))
    warnings = []
    fields: dict[str, Any] = {}
    if front_matter := _FRONT_MATTER.match(text):
        text = text[front_matter.end() :]
        try:
            fields = _parse(front_matter[1] or "")
        except (yaml.YAMLError, ValueError, RecursionError):
            warnings.append(f"The front matter of {name} is not valid YAML, so its licence and tags are not shown.")
    if len(text) > _MAX_BODY:
        warnings.append(f"{name} is longer than {_MAX_BODY:,} characters; the rest is not shown.")
    return Card(
        license=_license(fields),
        tags=plain_texts(fields.get("tags"), _MAX_TAGS),
        languages=plain_texts(fields.get("language")),
        datasets=plain_texts(fields.get("datasets")),
        base_model=plain_texts(fields.get("base_model")),
        pipeline_tag=plain_text(fields.get("pipeline_tag")),
        library_name=plain_text(fields.get("library_name")),
        description=_description(text),
        body=text.strip()[:_MAX_BODY] or None,
        warnings=tuple(warnings),
    )


def _parse(front_matter: str) -> dict[str, Any]:
    """YAML as texts, lists and mappings of texts.

    The base loader makes no other type, so that `language: no` stays Norwegian, runs no tag, and expands no merge key;
    an alias is a second reference, never a copy. The loader in C would overflow its stack on deep nesting.
    """
    if len(front_matter) > _MAX_FRONT_MATTER:
        raise ValueError("front matter too long")
    if sum(map(front_matter.count, _MARKS)) > _MAX_MARKS:
        raise ValueError("front matter of too many values")
    fields = yaml.load(front_matter, yaml.BaseLoader)  # noqa: S506 - builds texts only, safer than SafeLoader
    if not isinstance(fields, dict):
        return {}
    return fields


def _license(fields: dict[str, Any]) -> str | None:
    """The licence's identifier; where that is `other`, the name its owner gives it."""
    stated = ", ".join(plain_texts(fields.get("license"))) or None
    return (plain_text(fields.get("license_name")) or stated) if stated == "other" else stated


def _description(body: str) -> str | None:
    for paragraph in _paragraphs(body[:_MAX_BODY]):
        text = plain_text(_EMPHASIS.sub("", _HTML_TAG.sub("", _LINK.sub(r"\1", paragraph))), _MAX_BODY)
        if text:
            return text if len(text) <= _MAX_DESCRIPTION else text[: _MAX_DESCRIPTION - 1].rsplit(" ", 1)[0] + "…"
    return None


def _paragraphs(body: str) -> Iterator[str]:
    """Runs of lines of plain prose, outside of code blocks."""
    lines: list[str] = []
    fenced = False
    for line in body.split("\n"):
        fence = _FENCE.match(line) is not None
        if fence or fenced or not line.strip() or _NOT_PROSE.match(line):
            if lines:
                yield " ".join(lines)
                lines = []
            fenced ^= fence
        else:
            lines.append(line)
    if lines:
        yield " ".join(lines)
