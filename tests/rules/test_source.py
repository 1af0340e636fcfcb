"""The house's written rules, kept by reading the source."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelshare

ROOT = Path(modelshare.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if "versions" not in path.relative_to(ROOT).parts)
SERVER = ROOT / "server"
Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, Function))


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


def test_only_db_commits() -> None:
    found = [
        f"{name(path)}:{node.lineno}"
        for path in SERVER.rglob("*.py")
        if path != SERVER / "db.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"commit", "rollback"}
    ]
    assert found == []


def test_no_state_is_read_from_the_count_of_cancellations() -> None:
    """It is asyncio's own: until Python 3.13 a failed TaskGroup leaves it above 0. wait_for, until 3.12, may swallow
    a cancellation.
    """
    banned = {"cancelling", "uncancel", "TaskGroup"}
    found = [
        f"{name(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and (node.attr in banned or ast.unparse(node) == "asyncio.wait_for")
    ]
    assert found == []


def test_no_machine_goes_by_its_own_clock() -> None:
    """All processes go by the database's: see clock.py. Ids only sort by it, a store's clock is handed in, and the
    header `Date` decides nothing.
    """
    allowed = {SERVER / "clock.py", SERVER / "ids.py", SERVER / "front/server.py", *(SERVER / "storage").glob("*.py")}
    found = [
        f"{name(path)}:{node.lineno}"
        for path in SERVER.rglob("*.py")
        if path not in allowed
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and node.attr in {"time", "time_ns", "now", "utcnow", "today"}
        and isinstance(node.value, ast.Name)
        and node.value.id in {"time", "dt", "datetime", "date"}
    ]
    assert found == []


def test_only_db_locks_rows() -> None:
    """All kinds of row locks stand beside the order in which they are taken."""
    found = [
        f"{name(path)}:{node.lineno}"
        for path in SERVER.rglob("*.py")
        if path != SERVER / "db.py"
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Attribute) and node.attr == "with_for_update")
        or (isinstance(node, ast.keyword) and node.arg == "with_for_update")
    ]
    assert found == []


def test_no_function_over_a_hundred_lines_and_nearly_all_under_fifty() -> None:
    lengths = {
        f"{name(path)}:{function.name}": (function.end_lineno or function.lineno) - function.lineno + 1
        for path in FILES
        for function in functions(path)
    }
    assert {where: length for where, length in lengths.items() if length > 100} == {}
    assert sum(length < 50 for length in lengths.values()) / len(lengths) >= 0.95


def test_files_are_small() -> None:
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {where: count for where, count in lines.items() if count > 420} == {}
    assert statistics.median(count for count in lines.values() if count) < 130


@pytest.mark.parametrize("banned", ["utils.py", "helpers.py", "misc.py", "common.py"])
def test_no_drawer_for_everything(banned: str) -> None:
    assert [name(path) for path in FILES if path.name == banned] == []


def test_no_todo_without_an_issue() -> None:
    words = ("TODO", "FIXME", "XXX")
    found = [name(path) for path in FILES if any(word in path.read_text(encoding="utf-8") for word in words)]
    assert found == []


TENANT_TABLES = {"ModelRow", "EndpointRow", "KeyRow", "UploadRow", "JoinKeyRow", "WebhookRow", "DeliveryRow"}


def test_routes_and_services_do_not_select() -> None:
    """`select(` on a tenant's table stands in a domain's queries, where the scoping helper is in sight."""
    found = []
    for path in SERVER.rglob("*.py"):
        if path.name not in {"routes.py", "service.py", "rules.py"}:
            continue
        found += [
            f"{name(path)}:{node.lineno}"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"select", "update", "delete"}
            and any(isinstance(arg, ast.Name) and arg.id in TENANT_TABLES for arg in node.args)
        ]
    assert found == []


def test_work_in_the_background_is_a_loop() -> None:
    """What is done again and again, or until it works, is a `Loop` or `retry` of background.py, which report, back off
    and stop in one way. These sleep for a reason of their own: one connection, one stream, one round, one end.
    """
    known = {"fleet/jobs.py", "fleet/link.py", "front/server.py", "storage/local.py", "web/live.py", "background.py"}
    found = {
        str(path.relative_to(SERVER))
        for path in SERVER.rglob("*.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr == "sleep"
    }
    assert found == known
