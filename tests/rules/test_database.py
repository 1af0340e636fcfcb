"""How the server speaks with its database: who commits, where statements stand, whose rows they reach."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelshare.server.db import Table
from modelshare.server.migrations import tables
from source_code import FILES, SERVER, Function, called, calls, functions, imports, module_of, name, tree

SERVER_FILES = [path for path in FILES if SERVER in path.parents]
DB = SERVER / "db.py"
TENANT_TABLES = {
    mapper.class_.__name__ for mapper in Table.registry.mappers if "project_id" in mapper.persist_selectable.c
}
"""Every table whose rows are of one project."""


def test_only_db_commits() -> None:
    found = [
        f"{name(path)}:{call.lineno}"
        for path in SERVER_FILES
        if path != DB
        for call in calls(tree(path), "commit", "rollback")
    ]
    assert found == []


def test_only_db_locks_rows() -> None:
    """All kinds of row locks stand beside the order in which they are taken."""
    found = [
        f"{name(path)}:{node.lineno}"
        for path in SERVER_FILES
        if path != DB
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Attribute) and node.attr == "with_for_update")
        or (isinstance(node, ast.keyword) and node.arg == "with_for_update")
    ]
    assert found == []


def test_statements_stand_in_queries() -> None:
    """In `queries.py`, or in the parts of the base with tables of their own; tables name text for indexes."""
    base = {SERVER / part for part in ("db.py", "jobs.py", "clock.py", "installation.py", "migrations/__init__.py")}
    making = {"select", "insert", "update", "delete", "text", "union", "union_all", "exists", "upsert", "scoped_to"}
    found = [
        f"{name(path)} imports {each.name}"
        for path in SERVER_FILES
        if path.name != "queries.py" and path not in base
        for each in imports(path)
        if each.name in making and each.module.startswith(("sqlalchemy", "modelshare.server.db"))
        if not (path.name == "tables.py" and each.name == "text")
    ]
    assert found == []


def test_every_table_with_a_project_is_a_tenants() -> None:
    of_metadata = {each.name for each in tables.metadata.tables.values() if "project_id" in each.c}
    assert {"models", "endpoints", "keys", "usage", "blobs", "members"} <= of_metadata
    assert len(TENANT_TABLES) == len(of_metadata)


def names_in(nodes: list[ast.expr]) -> set[str]:
    return {inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def whole_statement(call: ast.Call, parents: dict[ast.AST, ast.AST]) -> ast.AST:
    """What is built on it: `select(X)` and the `.where(...)` and so on after it."""
    top: ast.AST = call
    while isinstance(parents.get(top), ast.Attribute) or (
        isinstance(parents.get(top), ast.Call) and getattr(parents[top], "func", None) is top
    ):
        top = parents[top]
    return top


def is_limited(statement: ast.AST, reached: set[str]) -> bool:
    """Whether it compares the project of one of these tables with something."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == "project_id"
        and isinstance(node.value, ast.Name)
        and node.value.id in reached
        for outer in ast.walk(statement)
        if isinstance(outer, ast.Compare) or (isinstance(outer, ast.Call) and called(outer) == "in_")
        for node in ast.walk(outer)
    )


def unlimited(module: ast.Module) -> Iterator[ast.Call]:
    """Statements on tenants' rows that neither name a project nor say that they mean all."""
    parents = {child: node for node in ast.walk(module) for child in ast.iter_child_nodes(node)}
    for call in calls(module, "select", "update", "delete", "get", "get_one", "select_from", "exists"):
        used = names_in([*call.args])
        reached = used & TENANT_TABLES
        if reached and "any_tenant" not in used and not is_limited(whole_statement(call, parents), reached):
            yield call


def test_every_statement_on_a_tenants_rows_is_limited_to_a_project_or_says_that_it_is_not() -> None:
    """`scoped_to(Table, project_id)`, a comparison with `Table.project_id`, or `any_tenant(Table)`."""
    found = [(path, call) for path in SERVER_FILES for call in unlimited(tree(path))]
    assert [f"{name(path)}:{call.lineno} {ast.unparse(call)}" for path, call in found] == []


@pytest.mark.parametrize(
    ("statement", "is_found"),
    [
        ("select(ModelRow).where(ModelRow.id == model_id)", True),
        ("select(ModelRow.id, ModelRow.name).limit(3)", True),
        ("session.get(KeyRow, key_id)", True),
        ("update(UsageRow).where(UsageRow.day == day)", True),
        ("select(ModelRow).where(ModelRow.project_id == project_id)", False),
        ("select(any_tenant(ModelRow)).where(ModelRow.id == model_id)", False),
        ("scoped_to(ModelRow, project_id).where(ModelRow.id == model_id)", False),
        ("select(VersionRow).where(VersionRow.id == version_id)", False),
    ],
)
def test_a_statement_that_forgets_the_project_is_found(statement: str, *, is_found: bool) -> None:
    assert bool(list(unlimited(ast.parse(statement)))) == is_found


def opens_a_transaction(function: Function) -> bool:
    return any(
        called(node) in {"read", "write"} and ast.unparse(node.func.value).endswith("database")
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    )


def called_functions(path: Path, function: Function) -> set[str]:
    """Of ours, as far as the file tells which function is meant."""
    known = {each.alias: f"{each.module}.{each.name}" if each.name else each.module for each in imports(path)}
    known |= {each.name: f"{module_of(path)}.{each.name}" for each in functions(path)}
    found = set()
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Name(id=own)):
                found.add(known.get(own, ""))
            case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=attribute)):
                found.add(known.get(attribute, ""))
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=attribute)):
                found.add(f"{known.get(module, '')}.{attribute}")
    return found


def test_what_takes_a_session_leaves_the_transaction_to_its_caller() -> None:
    """It neither opens one itself nor calls what does: only who has the database decides what is one transaction."""
    there = {f"{module_of(path)}.{each.name}": (path, each) for path in SERVER_FILES for each in functions(path)}
    reaches = {where: called_functions(*each) for where, each in there.items()}
    openers = {where for where, (_, function) in there.items() if opens_a_transaction(function)}
    while more := {where for where, reached in reaches.items() if reached & openers} - openers:
        openers |= more
    takes_session = {where for where, (_, each) in there.items() if "session" in parameters(each)}
    assert len(openers) > 50
    assert len(takes_session) > 300
    assert openers & takes_session == set()


def parameters(function: Function) -> set[str]:
    return {each.arg for each in (*function.args.args, *function.args.kwonlyargs)}
