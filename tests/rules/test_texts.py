"""What users read is plain English: no archaic, inverted or vague wording in messages, help, pages and API reference."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelshare

ROOT = Path(modelshare.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if "versions" not in path.relative_to(ROOT).parts)
TEMPLATES = sorted(ROOT.rglob("*.html"))
SCRIPTS = sorted(path for path in ROOT.rglob("*.js") if not path.name.endswith(".min.js"))
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
        r"[a-z]!(?= |$)": "no exclamation marks",
    }.items()
}
SAMPLES = {"Hello!", "Hello, how are you? What is the capital of France?"}
"""Messages to models."""


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


def is_public(function: ast.AST) -> bool:
    """Whether its docstring is the help of a command or the description of a route."""
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    words = ("app.command", "app.callback", "router.", "versions.", "public.", "platform.")
    return any(ast.unparse(each).startswith(words) for each in function.decorator_list)


def literals(path: Path) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = docstrings(tree)
    for node in ast.walk(tree):
        if is_public(node) and (text := ast.get_docstring(node)):  # type: ignore[arg-type] # is_public has seen its type
            yield node.lineno, text  # type: ignore[attr-defined]
        elif id(node) not in hidden and (text := rendered(node)) is not None:
            yield node.lineno, text  # type: ignore[attr-defined]


def page_texts(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a template without its comments and tags; texts in its expressions and attributes stay."""
    source = re.sub(r"\{#.*?#\}", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for number, line in enumerate(source.splitlines(), 1):
        yield number, re.sub(r"</?(bdi|code|strong|span|a|p|em)\b[^>]*>|\{\{[^{}\"]*\}\}", "…", line)


def script_texts(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for text in re.findall(r"\"[^\"]*\"|`[^`]*`", line.split(" // ")[0]):
            yield number, text[1:-1]


def smells(texts: Iterator[tuple[int, str]]) -> list[str]:
    return [
        f"{line}: {match[0]!r} in {text.strip()!r}: {instead}"
        for line, text in texts
        if " " in text.strip() and text not in SAMPLES
        for pattern, instead in SMELLS.items()
        if (match := pattern.search(text))
    ]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_messages_and_help(path: Path) -> None:
    assert smells(literals(path)) == []
