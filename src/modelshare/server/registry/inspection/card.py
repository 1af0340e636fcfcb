"""Reads the model card: README.md with its front matter, in all forms that the Hugging Face Hub accepts, and more."""

import functools
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from modelshare.server.registry.inspection import front_matter
from modelshare.server.registry.inspection.plain import plain_lines, plain_text, plain_texts
from modelshare.server.registry.inspection.reader import RangeReader
from modelshare.server.registry.inspection.text_file import read_text
from modelshare.server.registry.refused import printable

_MAX_FILE_BYTES = 1 << 20
_MAX_BODY = 100_000  # characters
_MAX_DESCRIPTION = 500  # characters
_MAX_TAGS = 100

_FENCE = re.compile(r" {0,3}(```|~~~)")
# Headings, quotes, lists, tables, HTML, rules, images, and lines that are nothing but a link
_NOT_PROSE = re.compile(r" {4}|\s*([#>|<]|[-*+]\s|\d{1,9}[.)]\s|!\[|\[!\[|([-*_=]\s*){3,}$|\[[^\]]*\]\([^)]*\)$)")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
_HTML_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_EMPHASIS = re.compile(r"\*\*|__|`|(?<!\w)[*_](?=\w)|(?<=\w)[*_](?!\w)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
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

    def or_else(self, other: "ModelCard") -> "ModelCard":
        """This card, with empty fields taken from the other one."""
        mine = {name: value for name in self.__slots__ if (value := getattr(self, name))}
        return replace(other, **mine | {"warnings": self.warnings + other.warnings})


def find_card(files: Mapping[str, RangeReader], root: str = "") -> ModelCard:
    """The card in the top folder, completed from the one in `root`, the model's folder; without either, the only other
    one.

    Its name is README.md, ignoring case.
    """
    paths = sorted(path for path in files if posixpath.basename(path).lower() == "readme.md")
    near = sorted((path for path in paths if posixpath.dirname(path) in {"", root}), key=posixpath.dirname)
    cards = [read_card(path, files[path]) for path in near or (paths if len(paths) == 1 else ())]
    return functools.reduce(ModelCard.or_else, cards, ModelCard())


def read_card(name: str, reader: RangeReader) -> ModelCard:
    """Reads the card in `name`. Errors become warnings, since engines do not need the card."""
    text, odd = read_text(reader, _MAX_FILE_BYTES)
    name = printable(name)
    card = front_matter.split(plain_lines(text))
    warnings = [f"{name} {odd}"] if odd else []
    warnings += [f"The front matter of {name} {problem}" for problem in card.problems]
    fields = _by_lower_case(card.fields)
    warnings += [
        f"The front matter of {name} states `{key}` in a form that cannot be shown; write a text or a list of texts."
        for key in ("license", "tags")
        if _is_unreadable(fields.get(key))
    ]
    if len(card.body) > _MAX_BODY:
        warnings.append(f"{name} is longer than {_MAX_BODY:,} characters; the rest is not shown.")
    return ModelCard(
        license=_license(fields),
        tags=plain_texts(fields.get("tags"), _MAX_TAGS),
        languages=plain_texts(fields.get("language", fields.get("languages"))),
        datasets=plain_texts(fields.get("datasets")),
        base_model=plain_texts(fields.get("base_model")),
        pipeline_tag=plain_text(fields.get("pipeline_tag")),
        library_name=plain_text(fields.get("library_name")),
        description=_description(card.body),
        body=card.body.strip()[:_MAX_BODY] or None,
        warnings=tuple(warnings),
    )


def _by_lower_case(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with keys in lower case, as the Hub spells them; a key that already is takes precedence."""
    known = {str(key).lower(): value for key, value in fields.items()} | dict(fields)
    known.setdefault("license", known.get("licence"))
    return known


def _is_unreadable(value: object) -> bool:
    """Whether the field has a value, but none that can be shown."""
    return bool(value) and not plain_texts(value)


def _license(fields: Mapping[str, Any]) -> str | None:
    """The licence's identifier, or the licence's name if that is `other`."""
    stated = ", ".join(plain_texts(fields.get("license"))) or None
    return (plain_text(fields.get("license_name")) or stated) if stated == "other" else stated


def _description(body: str) -> str | None:
    for paragraph in _paragraphs(front_matter.without_comments(body[:_MAX_BODY])):
        text = plain_text(_EMPHASIS.sub("", _HTML_TAG.sub("", _LINK.sub(r"\1", paragraph))), _MAX_BODY)
        if text:
            return text if len(text) <= _MAX_DESCRIPTION else text[: _MAX_DESCRIPTION - 1].rsplit(" ", 1)[0] + "…"
    return None


def _paragraphs(body: str) -> Iterator[str]:
    """Paragraphs of plain prose, outside of code blocks."""
    lines: list[str] = []
    fenced = False
    for line in body.split("\n"):
        fence = _FENCE.match(line) is not None
        if fence or fenced or not line.strip() or _is_not_prose(line):
            if lines:
                yield " ".join(lines)
                lines = []
            fenced ^= fence
        else:
            lines.append(line)
    if lines:
        yield " ".join(lines)


def _is_not_prose(line: str) -> bool:
    return _NOT_PROSE.match(line) is not None or front_matter.is_line_of(line)
