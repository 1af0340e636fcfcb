"""One word for one thing (docs/glossary.md): names and texts do not use a second one.

The tables say what to write instead. A word goes in here when it is gone everywhere.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "modelshare"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "versions" not in path.relative_to(PACKAGE).parts)
TEMPLATES = sorted((PACKAGE / "server" / "web" / "templates").rglob("*.html"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]

NAMES: Final[Mapping[str, str]] = {
    "are_there": "any_exist",
    "ensure": "enqueue_if_absent",
    "farewell": "interruption_message",
    "flaw": "explain_invalid_json",
    "for_people": "humanize_error",
    "for_scripts": "for_javascript",
    "holds": "lease_is_valid",
    "honoured": "supported",
    "most": "limit",
    "not_ours": "not_modelshare",
    "worth_hashing": "files_to_hash",
    "worth_reading": "is_scannable",
    "Confirmer": "PropagationTracker",
    "KeyRing": "KeyAuthenticator",
    "LinkWays": "TargetSelector",
    "ReleaseRow": "WeightDeletionRow",
    "SessionBook": "SessionAuthenticator",
    "Terms": "EndpointPolicy",
    "TierBook": "TierRegistry",
    "Weave": "StreamMerger",
}
"""Whole names of functions, classes, parameters and variables."""
PARTS: Final[Mapping[str, str]] = {
    "figures": "number_format",
    "ground": "subject",
    "hopeless": "attempts_exhausted",
    "hurry": "run_now",
    "judging": "inspection",
    "keeping": "storing",
    "lane": "context",
    "looks": "snapshots, checks",
    "onlooker": "viewer",
    "tend": "housekeeping",
    "vouch": "heartbeat",
    "ways": "selector",
    "wish": "spec, request",
}
"""Words inside of such names: `_tend` and `TendLoop` both have `tend`."""
FILES: Final[Mapping[str, str]] = {
    "closing": "expiry",
    "concurrently": "concurrency",
    "control": "server_api",
    "failures": "storage_errors, error_messages",
    "fetch": "range_request",
    "figures": "number_format",
    "footprints": "deployment_stats",
    "keyring": "key_auth",
    "learning": "spelling_index",
    "marks": "identicons",
    "memory": "ram_budget, memory_estimate, cache",
    "onlooker": "viewer",
    "releases": "weight_deletions",
    "runner": "deployments",
    "running": "in_flight",
    "standing": "fleet_status",
    "starting": "startup",
    "views": "presenters",
    "visitor": "page_auth",
    "watching": "live_parts",
    "ways": "target_selection",
    "which": "resolve_model",
    "words": "tokenizer, formatting, messages",
}
"""Names of files and folders."""
PROSE: Final[Mapping[str, str]] = {
    r"as (?:the|what) \w+ (?:says|tells) it": "according to",
    r"\banew\b": "again",
    r"\bby then\b": "so far",
    r"\bgoes? by\b": "depends on, uses",
    r"\bis no (?:\w+ )?(?:JSON|text|UTF-8|number|pickle|GGUF)\b": "is not, invalid",
    r"\blets? go of\b": "release, delete, unload",
    r"\bof no account\b": "irrelevant",
    r"\b(?:is|are) to hold\b": "should run, contains",
    r"\bso many\b": "that many, the number of",
    r"\bat the same moment\b": "concurrently",
    r"\bwhoever\b": "anyone who, the caller",
    r"\bwished for\b": "requested",
    r"\bwithout remainder\b": "completely",
}
"""Expressions in docstrings and comments of the packages that have been cleared of them."""
CLEARED: Final = ("agent", "cli", "client", "wire", "plugins.py", "private_files.py")
SYNONYMS: Final[Mapping[str, str]] = {
    r"workspaces?|organi[sz]ations?": "project",
    r"worker nodes?|runner nodes?|agent nodes?": "agent",
    r"API tokens?|access keys?|access tokens?": "key",
    r"join tokens?|enrol+ment keys?": "join key",
    r"share links?|invite links?|invitation links? to models?": "claim link",
    r"service plans?|pricing plans?|plan tiers?": "tier",
    r"model repositor(?:y|ies)|model repos?": "model",
    r"inference servers?": "engine",
    r"takedowns?|rescind\w*": "recall",
    r"unpublish\w*|delist\w*": "unshare",
    r"wanted state|target state|the server's wish\w*": "desired state",
}
"""Expressions in documents, templates and the command line's help."""
DIALECT: Final[Mapping[str, str]] = {
    r"anew": "again",
    r"counted no further": "counted up to",
    r"[Ee]very select on": "all queries for",
    r"in the midst": "within, during",
    r"[Ll]ets? go of": "delete, discard, release",
    r"of late": "recently",
    r"of no account": "ignored",
    r"of whomever|of whatever projects?": "of any project",
    r"[Rr]aises? `?Refused`?": "ModelRejectedError",
}
"""Expressions in docstrings and comments of the server."""


def statements(module: ast.Module) -> Iterator[ast.stmt]:
    """All of them, nested ones too. Several times as fast as ast.walk, which visits every expression."""
    waiting: list[ast.AST] = [module]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.stmt):
            yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, field, ())


def names_in(path: Path) -> Iterator[tuple[str, int]]:
    """Functions, classes, parameters, variables and fields that the file defines, with their lines."""
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        targets: list[ast.expr] = []
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                given = node.args
                parameters = (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
                yield from ((each, node.lineno) for each in (node.name, *(arg.arg for arg in parameters if arg)))
            case ast.ClassDef():
                yield node.name, node.lineno
            case ast.Assign():
                targets = node.targets
            case ast.AnnAssign() | ast.For() | ast.AsyncFor():
                targets = [node.target]
            case ast.With() | ast.AsyncWith():
                targets = [item.optional_vars for item in node.items if item.optional_vars]
        for each in chain.from_iterable(map(ast.walk, targets)):
            if isinstance(each, ast.Name | ast.Attribute):
                yield each.id if isinstance(each, ast.Name) else each.attr, node.lineno


def parts_of(name: str) -> set[str]:
    """`WishRow` and `_wish_row` have the parts `wish` and `row`."""
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def test_no_second_word_in_names() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {name}: write {better}"
        for path in SOURCES
        for name, line in names_in(path)
        for better in (NAMES.get(name.lstrip("_")), *(PARTS[part] for part in parts_of(name) & PARTS.keys()))
        if better
    ]
    assert found == []


def test_no_file_is_called_by_a_second_word() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: write {FILES[part]}"
        for path in SOURCES
        for part in path.relative_to(PACKAGE).with_suffix("").parts
        if part in FILES
    ]
    assert found == []


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Comments, and the lines of docstrings."""
    source = path.read_text(encoding="utf-8")
    documented = {
        number
        for node in statements(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    for number, line in enumerate(source.splitlines(), 1):
        if number in documented:
            yield number, line
        elif "# " in line:
            yield number, line.partition("# ")[2]


def test_no_private_dialect_in_docstrings_and_comments() -> None:
    patterns = {re.compile(pattern, re.IGNORECASE): better for pattern, better in PROSE.items()}
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {match[0]}: write {better}"
        for path in SOURCES
        if path.relative_to(PACKAGE).parts[0] in CLEARED
        for line, text in prose_of(path)
        for pattern, better in patterns.items()
        if (match := pattern.search(text))
    ]
    assert found == []


def test_no_second_word_in_texts() -> None:
    pattern = re.compile(rf"\b(?:{'|'.join(SYNONYMS)})\b", re.IGNORECASE)
    commands = sorted((PACKAGE / "cli").rglob("*.py"))
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in (*DOCUMENTS, *TEMPLATES, *commands)
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
        if not (
            any(word in path.name for word in ("storage", "register", "bucket"))
            and match[0].lower().startswith("access key")
        )  # S3's own word
    ]
    assert found == []


def test_no_dialect_in_docstrings_and_comments_of_the_server() -> None:
    pattern = re.compile(rf"\b(?:{'|'.join(DIALECT)})\b")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in SOURCES
        if path.is_relative_to(PACKAGE / "server")
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_the_glossary_is_in_order_and_says_each_word_once() -> None:
    words = re.findall(
        r"^\| \*\*([^*]+)\*\* \|", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert words == sorted(set(words))
    assert len(words) > 12
