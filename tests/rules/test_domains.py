"""What one domain of the server may use of another: see docs/decisions/0032-checkers.md.

A domain is reached through the modules that it offers. Beyond them only what is listed here crosses, module by module:
a new crossing fails, and so does a listed one that is gone.
"""

import ast
from pathlib import Path

from source_code import FILES, MODULES, SERVER, called, imports, module_of, name, tree

DOMAINS = {"audit", "accounts", "registry", "sharing", "endpoints", "fleet", "router", "hub", "web"}
OFFERED = {
    "audit": {"service", "events", "given_up.service", "propagation.service", "webhooks.service"},
    "accounts": {"service", "invitations", "key_auth", "members", "people", "sessions", "sign_in"},
    "registry": {
        *("service", "blobs.disposal", "file_selection", "held", "licenses", "versions", "inspection.front_matter"),
        *("imports.service", "in_place.service", "manifest", "moves.service", "signatures.service"),
        *("storages.keeping", "storages.relay", "storages.service", "storages.stores"),
        *("uploads.ahead", "uploads.completing", "uploads.expiry", "uploads.service"),
    },
    "sharing": {"service", "audience", "last_shown", "search", "tiers", "topics"},
    "endpoints": {"service", "policy", "deployment_stats", "holders", "recalls", "version_choice"},
    "fleet": {
        "service",
        "holding",
        "link",
        "links",
        "streams",
        "topics",
        "version_deletion",
        "weight_deletions.service",
    },
    "router": {"remaining", "usage"},
    "hub": {"access", "oci.service"},
}
"""Use cases, and what is made for others, by domain."""
JOINED = {
    ("endpoints.queries", "accounts.tables"),
    ("endpoints.queries", "registry.tables"),
    ("endpoints.queries", "sharing.tables"),
    ("endpoints.tables", "sharing.tables"),
    ("fleet.queries", "endpoints.tables"),
    ("fleet.queries", "registry.tables"),
    ("fleet.weight_deletions.queries", "registry.tables"),
    ("hub.oci.queries", "registry.tables"),
    ("hub.queries", "endpoints.tables"),
    ("registry.blobs.queries", "accounts.tables"),
    ("registry.queries", "accounts.tables"),
    ("router.queries", "accounts.tables"),
    ("router.queries", "endpoints.tables"),
    ("sharing.queries", "registry.tables"),
    ("sharing.search.queries", "accounts.tables"),
    ("sharing.search.queries", "registry.tables"),
}
"""Tables that are read beside the domain's own, in one statement or as a relationship."""
NAMED = {
    ("endpoints.deployment_stats", "registry.tables"),
    ("endpoints.holders", "registry.tables"),
    ("endpoints.presenters", "registry.tables"),
    ("endpoints.refusals", "registry.tables"),
    ("endpoints.policy", "registry.tables"),
    ("endpoints.service", "registry.tables"),
    ("endpoints.tables", "accounts.tables"),
    ("endpoints.tables", "registry.tables"),
    ("endpoints.version_choice", "accounts.tables"),
    ("endpoints.version_choice", "registry.tables"),
    ("fleet.tables", "registry.tables"),
    ("fleet.version_deletion", "registry.tables"),
    ("fleet.weight_deletions.service", "registry.tables"),
    ("hub.access", "registry.tables"),
    ("hub.oci.service", "registry.tables"),
    ("hub.hugging_face.drafts", "registry.tables"),
    ("hub.hugging_face.lfs", "registry.tables"),
    ("hub.hugging_face.pull", "registry.tables"),
    ("hub.tables", "endpoints.tables"),
    ("registry.tables", "accounts.tables"),
    ("router.export", "endpoints.tables"),
    ("sharing.audience", "accounts.tables"),
    ("sharing.audience", "registry.tables"),
    ("sharing.last_shown", "registry.tables"),
    ("sharing.presenters", "registry.tables"),
    ("sharing.provenance", "registry.tables"),
    ("sharing.routes", "registry.tables"),
    ("sharing.search.cards", "registry.tables"),
    ("sharing.service", "registry.tables"),
    ("sharing.tables", "accounts.tables"),
    ("sharing.tables", "registry.tables"),
    ("web.endpoints", "endpoints.tables"),
}
"""Rows that a service or a relationship hands out, named as a type."""
ALSO = {
    ("endpoints.deployment_stats", "sharing.presenters"),
    ("endpoints.presenters", "sharing.presenters"),
    ("endpoints.recalls", "sharing.presenters"),
    ("endpoints.routes", "sharing.presenters"),
    ("endpoints.recalls", "sharing.rules"),
    ("endpoints.rules", "sharing.rules"),
    ("endpoints.service", "sharing.rules"),
    ("endpoints.version_choice", "sharing.rules"),
    ("hub.hugging_face.push", "registry.paths"),
    ("hub.hugging_face.push", "registry.refused"),
    ("router.snapshots", "endpoints.presenters"),
    ("web.catalog.source", "sharing.presenters"),
    ("web.endpoints", "endpoints.presenters"),
    ("web.members", "accounts.rules"),
    ("web.models.listing", "sharing.presenters"),
    ("web.models.page", "sharing.presenters"),
    ("web.models.sharing", "sharing.presenters"),
    ("web.context", "accounts.presenters"),
    ("web.page_auth", "accounts.presenters"),
    ("web.page_auth", "fleet.verdicts"),
    ("web.platform.featured", "sharing.search.cards"),
    ("web.playground", "endpoints.presenters"),
}
"""Pure functions and types: how a thing is shown, and the rules that one question must have one answer to."""


def of_server(module: str) -> str:
    return module.removeprefix("modelshare.server.")


def domain_of(module: str) -> str | None:
    first = of_server(module).partition(".")[0]
    return first if first in DOMAINS and module in MODULES else None


def crossings() -> set[tuple[str, str]]:
    """(importing module, imported module) across domains, without what is offered."""
    return {
        (of_server(module_of(path)), of_server(each.module))
        for path in FILES
        if (own := domain_of(module_of(path)))
        for each in imports(path)
        if (other := domain_of(each.module)) not in {None, own}
        and of_server(each.module).partition(".")[2] not in OFFERED.get(other or "", ())
    }


def test_only_what_is_listed_crosses_between_domains() -> None:
    assert sorted(crossings() - (JOINED | NAMED | ALSO)) == []


def test_what_is_listed_is_there() -> None:
    assert sorted((JOINED | NAMED | ALSO) - crossings()) == []
    offered = {f"modelshare.server.{domain}.{module}" for domain, modules in OFFERED.items() for module in modules}
    assert offered - set(MODULES) == set()


def foreign_rows(path: Path) -> dict[str, str]:
    """Names of tables of other domains in this file, and the modules that they come from."""
    own = domain_of(module_of(path))
    found = {each.alias: each.module for each in imports(path) if each.name and each.module.endswith(".tables")}
    return {alias: module for alias, module in found.items() if own and domain_of(module) not in {None, own}}


def uses(path: Path) -> set[tuple[str, str]]:
    """(name, "type") or (name, "value") for each table of another domain in this file."""
    rows, module = foreign_rows(path), tree(path)
    written = [getattr(node, part, None) for node in ast.walk(module) for part in ("annotation", "returns")]
    types = {id(inner) for each in written if each is not None for inner in ast.walk(each)}
    types |= {id(inner) for each in module.body if is_alias(each) for inner in ast.walk(each)}
    names = [node for node in ast.walk(module) if isinstance(node, ast.Name) and node.id in rows]
    return {(node.id, "type" if id(node) in types else "value") for node in names}


def is_alias(statement: ast.stmt) -> bool:
    """`Projects = Mapping[str, ProjectRow]`."""
    return isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Subscript)


def test_tables_of_other_domains_are_read_in_statements_only_where_that_is_listed() -> None:
    found = {
        (of_server(module_of(path)), of_server(foreign_rows(path)[row]))
        for path in FILES
        for row, how in uses(path)
        if how == "value"
    }
    assert sorted(found - JOINED) == []
    assert sorted(JOINED - found) == []


def test_no_domain_writes_tables_of_another() -> None:
    writing = {"insert", "update", "delete", "upsert", "sqlite_insert", "postgres_insert"}
    found = [
        f"{name(path)}:{node.lineno} {ast.unparse(node)}"
        for path in FILES
        if SERVER in path.parents
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and (
            (called(node) in writing and foreign_rows(path).keys() & {getattr(each, "id", "") for each in node.args})
            or (isinstance(node.func, ast.Name) and node.func.id in foreign_rows(path))
        )
    ]
    assert found == []
