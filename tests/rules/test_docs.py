"""What the documents name exists: links, files, folders, tests, and the names that a file is said to define."""

import ast
import functools
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

from modelshare.server.audit import events

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "modelshare"
FOLDERS = (".ci", ".github", "benchmarks", "docs", "requirements", "scripts", "src", "tests")
DOCUMENTS = sorted(
    path
    for path in chain(ROOT.glob("*.md"), *((ROOT / folder).rglob("*.md") for folder in (".github", "docs")))
    if path.name != "CHANGELOG.md"  # may name what is gone
)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
SOURCE_FILE = re.compile(r"[\w./*-]+\.(?:py|js|html|sh|mako)")
FOLDER = re.compile(r"[\w.-]+(?:/[\w.-]+)*/")
TEST = re.compile(r"(?:[\w/*]+\.py::)?(test_\w+)")
ATTRIBUTE = re.compile(r"([a-z]\w*)\.([A-Za-z_]\w*)")
DEFINED = re.compile(r"`([\w./]+\.py)` \((`\w+`(?:, `\w+`)*)\)")
"""`path` (`name`, `name`): the file defines these names."""
NO_ATTRIBUTE = {"py", "json", "toml", "md", "html", "js"}
OF_USERS = {"logs/"}
"""Folders that a reader may have."""


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


@functools.cache
def files() -> tuple[str, ...]:
    """Every file of the repository, as `/path`."""
    found = chain(ROOT.iterdir(), *((ROOT / folder).rglob("*") for folder in FOLDERS))
    return tuple(f"/{path.relative_to(ROOT)}" for path in found if path.is_file())


def exists(name: str) -> bool:
    """Whether a file or folder ends in that path, whichever folder the document counts from."""
    if name.endswith("/"):
        return any(f"/{name}" in path for path in files())
    return any(fnmatchcase(path, f"*/{name}") for path in files())


@functools.cache
def defined(path: Path) -> frozenset[str]:
    """Names that the file defines anywhere: functions, classes, variables and fields."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
            case ast.Attribute(ctx=ast.Store()):
                names.add(node.attr)
    return frozenset(names)


@functools.cache
def modules(stem: str) -> tuple[Path, ...]:
    """Modules of that name, and those in a package of that name."""
    return (*PACKAGE.rglob(f"{stem}.py"), *PACKAGE.rglob(f"{stem}/*.py"))


def wrong(find: Callable[[Path], Iterable[str]]) -> list[str]:
    """What `find` finds, with the document that it stands in."""
    return [f"{path.relative_to(ROOT)}: {each}" for path in DOCUMENTS for each in find(path)]


def test_links_lead_somewhere() -> None:
    def broken(path: Path) -> list[str]:
        targets = [link.partition("#")[0] for link in LINK.findall(prose(path)) if "://" not in link]
        return [each for each in targets if each and not (path.parent / each).exists()]

    assert wrong(broken) == []


def test_named_files_and_folders_exist() -> None:
    def missing(path: Path) -> list[str]:
        named = [each for each in CODE.findall(prose(path)) if SOURCE_FILE.fullmatch(each) or FOLDER.fullmatch(each)]
        return [each for each in named if each not in OF_USERS and not exists(each)]

    assert wrong(missing) == []


def test_named_tests_exist() -> None:
    sources = list((ROOT / "tests").rglob("test_*.py"))
    known = {path.stem for path in sources}
    known.update(*(re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8")) for path in sources))

    def missing(path: Path) -> list[str]:
        named = [match[1] for each in CODE.findall(prose(path)) if (match := TEST.fullmatch(each))]
        return [each for each in named if each not in known]

    assert wrong(missing) == []


def test_names_are_where_the_document_says() -> None:
    def missing(path: Path) -> list[str]:
        return [
            f"{file} ({name})"
            for file, names in DEFINED.findall(prose(path))
            for name in CODE.findall(names)
            if not (PACKAGE / file).exists() or name not in defined(PACKAGE / file)
        ]

    assert wrong(missing) == []


def test_attributes_of_modules_exist() -> None:
    """Such as `db.notify`: some module of that name defines it."""

    def missing(path: Path) -> list[str]:
        found = []
        for token in CODE.findall(prose(path)):
            named = ATTRIBUTE.fullmatch(token)
            if named is None or token in events.TYPES or named[2] in NO_ATTRIBUTE:
                continue
            candidates = modules(named[1])
            if candidates and not any(named[2] in {*defined(each), each.stem} for each in candidates):
                found.append(token)
        return found

    assert wrong(missing) == []


def test_the_flows_of_the_architecture_are_checked() -> None:
    assert len(DEFINED.findall(prose(ROOT / "docs" / "architecture.md"))) > 40
