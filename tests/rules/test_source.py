"""The house's written rules, kept by reading the source."""

import ast
import statistics
from pathlib import Path

import pytest

from source_code import FILES, ROOT, SERVER, functions, name, tree


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


def test_the_client_waits_in_two_places_only() -> None:
    """`polling.poll` waits for the platform, `transport` before a request is repeated: both know how long and how."""
    allowed = {ROOT / "client/polling.py", ROOT / "client/transport.py"}
    found = [
        f"{name(path)}:{node.lineno}"
        for path in FILES
        if path.is_relative_to(ROOT / "client") or path.is_relative_to(ROOT / "cli")
        if path not in allowed
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "time.sleep"
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
    tests = Path(__file__).parent.parent.rglob("*.py")
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (*FILES, *tests)}
    assert {str(path): count for path, count in lines.items() if count > 400} == {}
    assert statistics.median(lines[path] for path in FILES if lines[path]) < 130


@pytest.mark.parametrize("banned", ["utils.py", "helpers.py", "misc.py", "common.py"])
def test_no_drawer_for_everything(banned: str) -> None:
    assert [name(path) for path in FILES if path.name == banned] == []


def test_no_todo_without_an_issue() -> None:
    words = ("TODO", "FIXME", "XXX")
    found = [name(path) for path in FILES if any(word in path.read_text(encoding="utf-8") for word in words)]
    assert found == []


def test_work_in_the_background_is_a_loop() -> None:
    """What is done again and again, or until it works, is a `Loop` or `retry` of background.py, which report, back off
    and stop in one way. These sleep for a reason of their own: one connection, one stream, one round, one end.
    """
    known = {"fleet/jobs.py", "fleet/link.py", "front/server.py", "storage/local.py", "web/live.py", "background.py"}
    known |= {"hub/hugging_face/drafts.py"}
    found = {
        str(path.relative_to(SERVER))
        for path in SERVER.rglob("*.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr == "sleep"
    }
    assert found == known
