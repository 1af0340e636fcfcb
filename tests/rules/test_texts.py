"""Messages, help, pages and the API reference are in plain English, without archaic, inverted or vague wording."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import modelshare

ROOT = Path(modelshare.__file__).parent
SMELLS = {
    re.compile(pattern, re.IGNORECASE): instead
    for pattern, instead in {
        r"\b(some|any|every)body\b": "someone, anyone, everyone; or user, member, project",
        r"\banew\b": "again",
        r"\bmend(s|ed|ing)?\b": "fix",
        r"\bat this moment\b": "now, at the moment",
        r"\bas often as\b": "the maximum number",
        r"\bwhat (was|were|is|are) (sent|typed|asked|answered)\b": "the request, the input, the answer",
        r"\bsay which\b": "use, choose",
        r"(?<!\bthere )\b(is|are) no (?!longer\b|more\b)[a-z-]+": "is not a ..., invalid ...",
        r"\b(is|are|was|were) there( already)?[.;,]": "created, stored, already exists",
        r"\b(goes|go|going) on\b": "continue, keep serving",
        r", where [^.;]{1,60} belongs?\b": "but must be ...",
        r"\b(lets?|letting) go of\b": "delete, unload",
        r"\bhears? of\b": "receive",
        r"\bshown this once\b": "shown only once",
        r"\b(is|are) under way\b": "in progress",
        r"\bfor good\b": "permanently",
        r"\bswitch(es|ed)? (it )?(on|off)\b": "activate, deactivate; enable, disable",
        r"\bholds (no|what|the character|a control|a backslash)\b": "contain",
        r"\bdoes not answer\b": "is not responding",
        r"\bcut short\b": "truncated",
        r"\bshows? to\b": "is shared with",
        r"\bgiven up\b": "failed",
        r"\bwhoever\b": "the user who, anyone who",
        r"\bonce more\b": "again",
        r"\bbegun\b": "started",
    }.items()
}
"""Wording to avoid, and what to write instead."""
PUBLIC = {"command", "callback", "get", "post", "put", "patch", "delete"}
"""Decorators of functions whose docstring is shown to users."""


def docstrings(tree: ast.Module) -> set[int]:
    """Ids of the nodes; attributes may have one too."""
    scopes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    statements = (each for scope in ast.walk(tree) if isinstance(scope, scopes) for each in scope.body)
    return {id(each.value) for each in statements if isinstance(each, ast.Expr)}


def rendered(node: ast.AST) -> str | None:
    """The text of a literal, with `…` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(rendered(each) or "…" for each in node.values)
    return None


def public_help(node: ast.AST) -> str | None:
    """The help of a command, or the description of an API route."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    decorators = (ast.unparse(each).partition("(")[0].rpartition(".")[2] for each in node.decorator_list)
    return ast.get_docstring(node) if PUBLIC & set(decorators) else None


def literals(path: Path) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = docstrings(tree)
    for node in ast.walk(tree):
        text = public_help(node)
        if text is None and id(node) not in hidden:
            text = rendered(node)
        if text is not None:
            yield getattr(node, "lineno", 0), text


def page_texts(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a template without its comments and inline tags; texts in its expressions and attributes stay."""
    source = re.sub(r"\{#.*?#\}", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for number, line in enumerate(source.splitlines(), 1):
        yield number, re.sub(r"</?(bdi|code|strong|span|a|p|em)\b[^>]*>|\{\{[^{}\"]*\}\}", "…", line)


def script_texts(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for text in re.findall(r"\"[^\"]*\"|`[^`]*`", line.partition(" // ")[0]):
            yield number, text[1:-1]


def smells(folder: str, suffix: str, texts: Callable[[Path], Iterator[tuple[int, str]]]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {match[0]!r} in {text.strip()!r}; better: {better}"
        for path in sorted((ROOT / folder).rglob(f"*{suffix}"))
        if "versions" not in path.parts and not path.name.endswith(".min.js")
        for line, text in texts(path)
        if " " in text.strip()
        for pattern, better in SMELLS.items()
        if (match := pattern.search(text))
    ]


def test_messages_help_and_the_api_reference() -> None:
    assert smells(".", ".py", literals) == []


def test_pages() -> None:
    assert smells("server/web/templates", ".html", page_texts) == []


def test_scripts() -> None:
    assert smells("server/web/static", ".js", script_texts) == []


@pytest.mark.parametrize(
    "text",
    [
        "Somebody else changed the same at this moment",
        "What was sent is no form that can be read",
        "`after` is no cursor of this list",
        "The endpoint x is there.",
        "Mend what its status says",
        "This link was claimed as often as it may be",
        "Every byte is read and checked anew",
    ],
)
def test_the_wording_that_was_replaced_is_recognized(text: str) -> None:
    assert any(pattern.search(text) for pattern in SMELLS)


@pytest.mark.parametrize(
    "text",
    ["There is no project `x`.", "The endpoint is no longer active.", "There are no agents yet.", "Press Ctrl-C."],
)
def test_plain_wording_is_left_alone(text: str) -> None:
    assert not any(pattern.search(text) for pattern in SMELLS)
