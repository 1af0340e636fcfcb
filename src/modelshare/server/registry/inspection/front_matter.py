"""Separates the front matter of a model card from its text, wherever people and tools put it.

The Hugging Face Hub reads YAML between two lines of `---` at the start, after blank lines at most. Read here as well:
after comments, without its end or its beginning, within a fence or a comment, below a title, twice, and as TOML.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final

import yaml

CORE_KEYS: Final = frozenset(
    {"license", "licence", "tags", "language", "datasets", "base_model", "pipeline_tag", "library_name"}
)
"""A mapping with one of these keys is front matter even if it is not at the start."""
KEYS: Final = CORE_KEYS | {
    *("license_name", "license_link", "languages", "metrics", "model-index", "model_name", "base_model_relation"),
    *("widget", "inference", "thumbnail", "new_version", "co2_eq_emissions", "quantized_by", "extra_gated_prompt"),
}
"""A line with one of these keys is not prose."""
_MAX_LENGTH = 256 << 10  # characters; cards with evaluation tables reach 150,000
_MAX_MARKS = 30_000  # of YAML; each costs the loader up to 20 microseconds
_MARKS = "\n,:?[{&*!"
_MAX_MARKS_OF_TOML = 3_000  # the loader's time grows with their square
_MARKS_OF_TOML = "\n,=.[{"
_MAX_BLOCKS = 8
_MAX_TRIED = 5
_MAX_LENGTH_BELOW = 32 << 10

_INVISIBLE = "\ufeff\u200b\u2060"
_COMMENT = re.compile(r"<!--(.*?)(?:-->|\Z)", re.DOTALL)
_BLANK = re.compile(rf"[\s{_INVISIBLE}]*")
# Possessive (*+, ?+) where neighbours fit the same blanks: else a long line of them would take time by its square.
_OPENING = re.compile(r"[ \t]*+-{3,}+[ \t]*+(?:ya?ml)?+[ \t]*+(?:\n|\Z)", re.IGNORECASE)
_CLOSING = re.compile(r"^-{3,}[ \t]*(?:\n|\Z)", re.MULTILINE)
_END_OF_DOCUMENT = re.compile(r"^\.{3}[ \t]*(?:\n|\Z)", re.MULTILINE)
_TOML = re.compile(r"\+{3}[ \t]*\n(?:(.*?)\n)?\+{3}[ \t]*(?:\n|\Z)", re.DOTALL)
_TOML_OPENING = re.compile(r"\+{3}[ \t]*\n((?:[^\n]+(?:\n|\Z))*)")
_FENCE = re.compile(
    r"(`{3,}+|~{3,}+)[ \t]*+(?:ya?ml|toml|markdown|md)?+[ \t]*+\n(.*?)\n\1[ \t]*(?:\n|\Z)", re.DOTALL | re.IGNORECASE
)
_FENCED = re.compile(r"^ {0,3}(`{3,}|~{3,}).*?(?:^ {0,3}\1|\Z)", re.DOTALL | re.MULTILINE)
_RULE = re.compile(r"^---[ \t]*\n", re.MULTILINE)
_LINE = re.compile(r"\s*(?:#|$)|[ \t]+\S|-(?:\s|$)|[]})]|[\"']?[A-Za-z_][\w .-]*+[\"']?[ \t]*+:(?:\s|$)")
_KEY = re.compile(r"[\"']?([A-Za-z_][\w-]*)[\"']?[ \t]*:(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of a card."""

    fields: dict[str, Any]
    """Strings, and lists and mappings of them."""
    body: str
    problems: tuple[str, ...]
    """Problems, each the end of a sentence that starts with "The front matter of README.md"."""


@dataclass(frozen=True, slots=True)
class _Block:
    content: str
    rest: str
    fields: dict[str, Any] | None
    """None: invalid."""
    problems: list[str] = field(default_factory=list)


def split(text: str) -> Split:
    """Splits a text whose lines end in a single newline. If several blocks have the same key, the first one counts."""
    fields: dict[str, Any] = {}
    problems: list[str] = []
    found = 0
    rest = text
    while found < _MAX_BLOCKS and (block := _leading(rest, first=not found)) is not None:
        found += 1
        rest = block.rest
        problems += block.problems
        fields = {**(block.fields or {}), **fields}
    if not found and (below := _below(text)) is not None:
        before, block = below
        fields, rest = block.fields or {}, before + block.rest
        problems.append("is not at the beginning, where other programs look for it.")
    if found > 1:
        problems.append("appears more than once; where the parts differ, the first one counts.")
    return Split(fields, rest, tuple(dict.fromkeys(problems)))


def is_line_of(line: str) -> bool:
    """Whether a line of the text looks like front matter that was not recognized."""
    key = _KEY.match(line)
    return key is not None and key[1] in KEYS


def without_comments(text: str) -> str:
    return _COMMENT.sub("", text)


def _leading(text: str, *, first: bool) -> _Block | None:
    """The block at the start of `text`, after blank lines and comments."""
    at = _after_blank(text, 0)
    comments = 0
    while (comment := _COMMENT.match(text, at)) is not None:
        comments += 1
        inside = _block(comment[1].lstrip(), first=False) if comments <= _MAX_TRIED else None
        if inside is not None and not inside.rest.strip():
            return _Block(inside.content, text[comment.end() :], inside.fields, inside.problems)
        at = _after_blank(text, comment.end())
    return _block(text[at:], first=first)


def _after_blank(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at


def _block(text: str, *, first: bool, in_fence: bool = False) -> _Block | None:
    """The block that begins here. Unless it is the `first` content of the card, it must look like front matter."""
    if opening := _OPENING.match(text):
        between = _between(text, opening.end(), first=first and opening[0].strip() == "---")
        if between is not None and between.fields is not None:
            return between
        unclosed = _unclosed(text[opening.end() :])  # its closing line may be a horizontal rule far below
        return unclosed if unclosed is not None and (between is None or unclosed.fields is not None) else between
    if text.startswith("+++"):
        return _toml(text)
    if not in_fence and (fence := _FENCE.match(text)):
        inside = _block(fence[2].lstrip() + "\n", first=False, in_fence=True) or _plain(fence[2])
        return replace(inside, rest=inside.rest + text[fence.end() :]) if inside else None
    return _unopened(text)


def _between(text: str, start: int, *, first: bool) -> _Block | None:
    closing = _CLOSING.search(text, start) or _END_OF_DOCUMENT.search(text, start)
    if closing is None:
        return None
    content, rest = text[start : closing.start()], text[closing.end() :]
    if end := _END_OF_DOCUMENT.search(content):
        rest = rest if not content[end.end() :].strip() else text[start + end.end() :]
        content = content[: end.start()]
    block = _Block(content, rest, *_read(content))
    return block if (first and closing[0].strip() in {"---", "..."}) or _is_front_matter(block.fields) else None


def _unclosed(text: str) -> _Block | None:
    """Lines of YAML after an opening line, until prose begins."""
    content, rest = _run_of_yaml(text)
    fields, problems = _read(content)
    if not _is_front_matter(fields) and not any(map(is_line_of, content.split("\n"))):
        return None
    return _Block(
        content, rest, fields, problems or ["is not closed by a line of ---, so other programs do not read it."]
    )


def _unopened(text: str) -> _Block | None:
    """Lines of YAML without an opening line, but with a closing line or at least two known keys."""
    if not is_line_of(text.partition("\n")[0]):
        return None
    content, rest = _run_of_yaml(text)
    closing = _CLOSING.match(rest)
    fields, _ = _read(content)
    if fields is None or not _is_front_matter(fields) or (closing is None and len(KEYS & fields.keys()) < 2):  # noqa: PLR2004
        return None
    problem = "does not begin with a line of ---, so other programs do not read it."
    return _Block(content, rest[closing.end() :] if closing else rest, fields, [problem])


def _plain(content: str) -> _Block | None:
    fields, problems = _read(content)
    return _Block(content, "", fields, problems) if _is_front_matter(fields) else None


def _run_of_yaml(text: str) -> tuple[str, str]:
    """The lines of YAML at the start of `text`, and the rest. They end at a blank line or title unless keys follow."""
    lines = text.split("\n")
    kept, broken = 0, False
    for number, line in enumerate(lines, start=1):
        is_empty = not line.strip() or line.startswith("#")
        if not _LINE.match(line) or (broken and not is_empty and not is_line_of(line)):
            break
        broken = is_empty
        kept = kept if is_empty else number
    return "\n".join(lines[:kept]), "\n".join(lines[kept:]).lstrip("\n")


def _below(text: str) -> tuple[str, _Block] | None:
    """A complete block further down, outside of code blocks, and the text before it."""
    fenced = [match.span() for match in _FENCED.finditer(text)]
    rules = (rule for rule in _RULE.finditer(text) if is_line_of(text[rule.end() : rule.end() + 80]))
    for rule in islice(rules, _MAX_TRIED):
        if any(start <= rule.start() < end for start, end in fenced):
            continue
        if block := _between(text[: rule.end() + _MAX_LENGTH_BELOW], rule.end(), first=False):
            return text[: rule.start()], replace(block, rest=block.rest + text[rule.end() + _MAX_LENGTH_BELOW :])
    return None


def _toml(text: str) -> _Block | None:
    whole = _TOML.match(text)
    found = whole or _TOML_OPENING.match(text)
    if found is None:
        return None
    problems = [] if whole else ["is not closed by a line of +++."]
    content = found[1] or ""
    try:
        marks = sum(map(content.count, _MARKS_OF_TOML))
        fields = _as_texts(tomllib.loads(content)) if marks <= _MAX_MARKS_OF_TOML else None
    except (ValueError, RecursionError):
        fields = None
    if fields is None:
        problems = ["is not valid TOML, so its licence and tags are not shown."]
    return _Block(content, text[found.end() :], fields, problems)


def _as_texts(value: Any) -> Any:
    match value:
        case dict():
            return {key: _as_texts(each) for key, each in value.items()}
        case list():
            return [_as_texts(each) for each in value]
        case _:
            return value if isinstance(value, str) else str(value).lower()


def _is_front_matter(fields: dict[str, Any] | None) -> bool:
    return fields is not None and any(str(key).lower() in CORE_KEYS for key in fields)


def _read(content: str) -> tuple[dict[str, Any] | None, list[str]]:
    try:
        return _parse(content), []
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        return None, ["is not valid YAML, so its licence and tags are not shown."]


def _parse(content: str) -> dict[str, Any]:
    """Parses YAML into strings, and lists and mappings of them.

    The base loader makes no other type, so that `language: no` stays Norwegian, runs no tag, and expands no merge key;
    an alias is a second reference, never a copy. The loader in C would overflow its stack on deep nesting.
    """
    if len(content) > _MAX_LENGTH:
        raise ValueError("front matter too long")
    if sum(map(content.count, _MARKS)) > _MAX_MARKS:
        raise ValueError("front matter of too many values")
    for attempt in _attempts(content):
        try:
            fields = yaml.load(attempt, yaml.BaseLoader)  # noqa: S506 - builds texts only, safer than SafeLoader
        except yaml.YAMLError:
            continue
        if isinstance(fields, dict) or attempt is content:
            return fields if isinstance(fields, dict) else {}
    raise ValueError("not valid YAML")


def _attempts(content: str) -> Iterator[str]:
    """The content unchanged, then with tabs in the indentation replaced, which YAML forbids."""
    yield content
    if "\t" in content:
        yield content.expandtabs(2)
