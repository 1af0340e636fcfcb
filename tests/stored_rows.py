"""Rows of every table, to be written and read in tests of migrations."""

import uuid
from typing import Any

from sqlalchemy import Connection, MetaData, select

from modelshare.server.ids import secret_hash

FIRST = "0001"


SECRET = "ms_acme_" + "s" * 43


LATER = 4_000_000_000


BODY = '{"type":"model.shared","timestamp":"2026-11-25T13:09:42Z","id":"1","project":"proj_acme","data":{}}'


MANIFEST = b'{"files":[]}'


SHARED, DEPLOYABLE, PRIVATE = (uuid.UUID(int=number) for number in (1, 2, 3))
"""Models: one in each role (the first is featured), and one that is not in the catalog."""


DELETED = uuid.UUID(int=4)


Dump = dict[str, list[dict[str, Any]]]


def uid(number: int) -> uuid.UUID:
    return uuid.UUID(int=number)


def rows() -> Dump:
    """Rows of every table in the first schema.

    Two projects, three models, two endpoints and an agent that serves one.
    """
    models = dict(zip((SHARED, DEPLOYABLE, PRIVATE), ("one", "two", "three"), strict=True))
    return {
        "projects": [{"id": id_, "name": id_, "slug": id_[5:], "created_at": 1} for id_ in ("proj_acme", "proj_borg")],
        "keys": [
            {"id": uid(10), "project_id": "proj_acme", "name": "k", "hint": "ms_…", "scopes": [], "allowed_ips": []}
            | {"created_at": 1}
        ],
        "key_values": [{"hash": secret_hash(SECRET), "key_id": uid(10)}],
        "models": [
            {"id": id_, "project_id": "proj_acme", "name": name, "tags": ["chat", name], "created_at": 1}
            | {"active_endpoints": n, "foreign_endpoints": n, "shared_tier_endpoints": n}
            for (id_, name), n in zip(models.items(), (1, 0, 0), strict=True)
        ],
        "model_versions": [
            {"id": uid(20 + n), "model_id": id_, "version": "1.0.0", "status": "ready", "is_latest": True}
            | {"make_latest": True, "manifest": MANIFEST, "manifest_digest": f"sha256:{n}", "size_bytes": 7}
            | {"facts": {"n": n}, "created_at": 1}
            for n, id_ in enumerate(models)
        ]
        + [
            {"id": uid(29), "model_id": SHARED, "version": "2.0.0", "status": "failed", "is_latest": False}
            | {"make_latest": True, "status_reason": "No weights.", "facts": {}, "created_at": 2}
        ],
        "blobs": [{"project_id": "proj_acme", "sha256": "ab", "size": 7, "key": "x/1", "created_at": 1}],
        "version_files": [
            {"version_id": uid(20), "path": "m.gguf", "project_id": "proj_acme", "sha256": "ab", "size": 7}
        ],
        "shares": [
            {"model_id": SHARED, "role": "shared", "featured": True, "shared_at": 5, "deployment_count": 1}
            | {"shared_tier_endpoints": 1},
            {"model_id": DEPLOYABLE, "role": "deployable", "featured": False, "shared_at": 6, "deployment_count": 0}
            | {"shared_tier_endpoints": 0},
        ],
        "endpoints": [
            {"id": uid(30), "project_id": "proj_borg", "slug": "chat", "model_id": SHARED, "tier": "free"}
            | {"is_active": True, "status": "active", "created_at": 1},
            {"id": uid(31), "project_id": "proj_borg", "slug": "old", "model_id": None, "tier": "self_hosted"}
            | {"is_active": False, "status": "inactive", "created_at": 1},
        ],
        "join_keys": [{"id": uid(40), "name": "j", "hash": "jh", "tiers": ["free"], "created_at": 1}],
        "agents": [
            {"id": uid(41), "name": "box", "token_hash": "th", "tiers": ["free"], "state": "disconnected"}
            | {"capabilities": {}, "created_at": 1, "last_seen_at": LATER}
        ],
        "deployments": [
            {"id": uid(42), "agent_id": uid(41), "version_id": uid(20), "phase": "ready", "bytes_done": 7}
            | {"bytes_total": 7, "routes": ["completions"], "max_concurrent": 5, "created_at": 1}
        ],
        "serving": [{"endpoint_id": uid(30), "version_id": uid(20)}],
        "usage": [
            {"day": "2026-01-01", "endpoint_id": uid(30), "key_id": uid(10), "project_id": "proj_borg"}
            | {"endpoint_slug": "chat", "model_id": SHARED, "requests": 3, "errors": 1, "prompt_tokens": 5}
            | {"completion_tokens": 8}
        ],
        "audit_log": [
            {"id": uid(50), "project_id": "proj_acme", "at": 5, "actor": "system", "action": "model.share"}
            | {"target": f"model:{SHARED}", "outcome": "done", "details": {"role": "deployable"}}
        ],
        "uploads": [
            {"id": uid(60), "project_id": "proj_acme", "version_id": uid(29), "model_id": SHARED, "model_name": "one"}
            | {"version_name": "2.0.0", "state": "open", "part_size": 5, "bytes_total": 7, "created_at": 1}
            | {"expires_at": LATER},
            {"id": uid(61), "project_id": "proj_acme", "version_id": None, "model_id": DELETED, "model_name": "gone"}
            | {"version_name": "1.0.0", "state": "cancelled", "part_size": 5, "bytes_total": 7, "created_at": 1}
            | {"expires_at": LATER},
        ],
        "upload_files": [
            {"upload_id": uid(60), "n": 0, "path": "m.gguf", "size": 7, "sha256": "ab", "key": "x/2"}
            | {"multipart_id": "", "reused": False}
        ],
        "jobs": [{"id": uid(70), "kind": "registry.process", "subject": "x", "run_after": LATER, "attempts": 2}],
        "garbage": [{"id": uid(80), "project_id": "proj_acme", "key": "x/3"}],
    }


def fill(connection: Connection) -> None:
    """Inserts the rows of the first schema, using the reflected tables."""
    tables = MetaData()
    tables.reflect(connection)
    assert {*rows(), "alembic_version"} == set(tables.tables), "a table without data"
    for table in tables.sorted_tables:
        for row in rows().get(table.name, []):
            stored = {name: value.hex if isinstance(value, uuid.UUID) else value for name, value in row.items()}
            connection.execute(table.insert().values(stored if connection.dialect.name == "sqlite" else row))


def dump(connection: Connection) -> Dump:
    """The complete contents of the database."""
    tables = MetaData()
    tables.reflect(connection)
    return {
        name: sorted((dict(row) for row in connection.execute(select(table)).mappings()), key=repr)
        for name, table in tables.tables.items()
        if name != "alembic_version"
    }


def without(content: Dump, *columns: str) -> Dump:
    return {
        table: [{name: value for name, value in row.items() if f"{table}.{name}" not in columns} for row in of_table]
        for table, of_table in content.items()
        if table in rows()
    }


def old_part(content: Dump) -> Dump:
    added = (
        *(
            "shares.audience",
            "audit_log.changed_ms",
            *(
                f"usage.{name}"
                for name in ("estimated", "tier", "version", "cost_micros", "cost_rest", "of_endpoint_id")
            ),
            "keys.suspended_at",
            "agents.join_key_id",
            "agents.is_holder",
            "agents.instance",
            "agents.expected_until",
            "model_versions.digests",
            "blobs.proven_at",
            "uploads.digests",
        ),
        *("model_versions.file", "endpoints.file", "deployments.file", "serving.file"),
        *(
            "blobs.storage",
            "blobs.pin",
            "version_files.storage",
            "version_files.pin",
            "uploads.storage",
            "garbage.storage",
            "garbage.not_before",
        ),
        *("models.name_key", "model_versions.latest_note", "model_versions.notes"),
        *("projects.require_signature", "projects.allowed_signers", "endpoints.tier_signers"),
        *("projects.monthly_budget", "keys.requests_per_minute", "keys.tokens_per_minute", "keys.monthly_token_budget"),
        *(f"model_versions.{name}" for name in ("signature_state", "signer", "signature_key", "signature_problem")),
    )
    old = without(content, *added)
    for version in old["model_versions"]:  # since migration 0013, the default is stored as null
        version["make_latest"] = version["make_latest"] is None or version["make_latest"]
    return old
