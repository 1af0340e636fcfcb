"""Parses the product's source code, for the tests in tests/rules."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import modelshare

ROOT = Path(modelshare.__file__).parent
SERVER = ROOT / "server"
FILES = sorted(path for path in ROOT.rglob("*.py") if "versions" not in path.relative_to(ROOT).parts)
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Import(NamedTuple):
    module: str
    name: str | None
    """The imported name; None if the module itself is imported."""
    alias: str
    """Its name in the file."""


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, Function))


def calls(module: ast.Module, *names: str) -> Iterator[ast.Call]:
    """Calls of functions or methods with one of these names."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and called(node) in names:
            yield node


def called(call: ast.Call) -> str:
    match call.func:
        case ast.Attribute(attr=called) | ast.Name(id=called):
            return called
    return ""


@functools.cache
def imports(path: Path) -> tuple[Import, ...]:
    found: list[Import] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, None, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                alone = whole in MODULES
                found.append(
                    Import(whole if alone else node.module, None if alone else alias.name, alias.asname or alias.name)
                )
    return tuple(found)
