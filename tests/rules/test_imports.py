"""Who may import whom, beyond the layers that import-linter keeps (`pyproject.toml`)."""

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

from source_code import FILES, MODULES, ROOT, calls, functions, imports, module_of, name, tree

PROJECT = ROOT.parent.parent / "pyproject.toml"
RULES = sorted(path for path in FILES if path.name.endswith("rules.py"))
IMPURE = {
    *("asyncio", "concurrent", "http.client", "http.server", "io", "logging", "os", "random", "secrets", "selectors"),
    *("shutil", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "urllib.request"),
}
LIBRARIES_WITHOUT_EFFECTS = {"httptools", "lz4", "markupsafe", "msgspec", "pydantic"}


def test_no_import_of_ours_inside_a_function() -> None:
    found = [
        f"{name(path)}:{inner.lineno}"
        for path in FILES
        for function in functions(path)
        for inner in ast.walk(function)
        if (isinstance(inner, ast.ImportFrom) and (inner.module or "").startswith("modelshare"))
        or (isinstance(inner, ast.Import) and any(alias.name.startswith("modelshare") for alias in inner.names))
    ]
    assert found == []


def test_nothing_of_ours_is_imported_by_its_name_in_a_string() -> None:
    """No checker would see it. What is loaded late is an entry point; a library that is slow to import is named."""
    found = [
        f"{name(path)}:{call.lineno}"
        for path in FILES
        for call in calls(tree(path), "import_module", "__import__", "resolve_name")
        if not isinstance(call.args[0], ast.Constant) or str(call.args[0].value).startswith("modelshare")
    ]
    assert found == []


def test_the_installed_package_has_the_entry_points_of_the_source() -> None:
    installed = {(point.group, point.name, point.value) for point in metadata.distribution("modelshare").entry_points}
    listed = re.findall(
        r'^([\w.-]+) = "(modelshare[\w.]*:\w+(?: \[[\w,]+\])?)"$', PROJECT.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {point[1:] for point in installed} == set(listed), "install again: pip install --no-deps -e ."


def impurities(path: Path) -> list[str]:
    found = [f"imports {each.module}" for each in imports(path) if not is_pure(each.module)]
    found += ["is asynchronous" for node in ast.walk(tree(path)) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]
    return found + [
        "opens a file" for _ in calls(tree(path), "open", "read_text", "read_bytes", "write_text", "write_bytes")
    ]


def is_pure(module: str) -> bool:
    """Not of ours: whether the module does nothing but compute. What of ours is imported is looked at by itself."""
    top = module.split(".", maxsplit=1)[0]
    if module in MODULES:
        return not re.fullmatch(r"modelshare\.server\..*\b(db|errors|http|queries|routes|service|tables)", module)
    return not {top, module} & IMPURE and (top in sys.stdlib_module_names or top in LIBRARIES_WITHOUT_EFFECTS)


def test_what_is_pure_only_computes() -> None:
    """Rules are pure by their name, others by their word: a docstring that says "Pure"."""
    pure = [path for path in FILES if re.search(r"\bpure\b", ast.get_docstring(tree(path)) or "", re.IGNORECASE)]
    found = {name(path): impurities(path) for path in sorted({*RULES, *pure})}
    assert len(found) > len(RULES)
    assert {path: faults for path, faults in found.items() if faults} == {}


def test_the_rules_of_every_domain_are_among_them() -> None:
    assert {module_of(path).split(".")[2] for path in RULES if "server" in path.parts} >= {
        *("accounts", "audit", "endpoints", "fleet", "registry", "sharing")
    }
