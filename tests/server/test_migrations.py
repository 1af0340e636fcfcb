"""A database of the first release, with data in every table, goes to the newest schema, back, and there again."""

import uuid
from collections.abc import AsyncIterator

import pytest
import structlog
from sqlalchemy import delete, select, text, update

from conftest import Tenant, client_of, new_tenant
from factories import make_model
from invariants import stale_entries
from modelshare.server import migrations
from modelshare.server.accounts.tables import InvitationRow, MemberRow, PersonRow, SessionRow
from modelshare.server.app import create_app
from modelshare.server.audit.tables import AuditRow, ConfirmationRow, OutboxRow, ProcessRow
from modelshare.server.audit.webhooks.tables import DeliveryRow, WebhookRow
from modelshare.server.db import Database
from modelshare.server.endpoints.tables import UsageWriterRow
from modelshare.server.fleet.tables import AgentLinkRow, WeightDeletionRow
from modelshare.server.hub.oci.tables import OciArtifactRow
from modelshare.server.hub.tables import DraftRow, EndpointTokenRow, XorbRow
from modelshare.server.jobs import GivenUpRow
from modelshare.server.registry.imports.tables import ImportRow
from modelshare.server.registry.moves.tables import MoveFileRow, MoveRow
from modelshare.server.registry.storages.tables import StorageRow
from modelshare.server.registry.tables import (
    DeletedVersionRow,
    DeletionHoldRow,
    ModelRow,
    RegisteredFileRow,
    SignatureRow,
    SignerRow,
    StagedFileRow,
)
from modelshare.server.router.tables import LedgerRow
from modelshare.server.settings import Settings
from modelshare.server.sharing.tables import EVERYBODY, ClaimLinkRow, LastShownRow, RecallRow, ShareProjectRow, ShareRow
from stored_rows import BODY, DEPLOYABLE, FIRST, LATER, PRIVATE, SECRET, SHARED, Dump, dump, fill, old_part, rows, uid

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """At the first revision, with data."""
    database = Database(settings.database)
    await migrations.downgrade(database, "base")
    await migrations.upgrade(database, FIRST)
    async with database.engine.begin() as connection:
        await connection.run_sync(fill)
    yield database
    await migrations.upgrade(database)  # PostgreSQL's is lent to other tests
    await database.close()


async def content_of(database: Database) -> Dump:
    async with database.engine.connect() as connection:
        return await connection.run_sync(dump)


async def use(settings: Settings) -> None:
    """The application serves what the first release left, however old that is."""
    kept = dict.fromkeys(("audit_days", "deletions_days", "records_days", "usage_daily_days"), 36500)
    application = create_app(settings.model_copy(update=kept))
    async with application.running(), client_of(application, SECRET) as owner, client_of(application) as anybody:

        async def catalog() -> dict[str, str]:
            page = (await anybody.get("/v1/catalog/models")).json()
            return {entry["id"]: entry["catalog_role"] for entry in page["data"]}

        assert await catalog() == {str(SHARED): "shared", str(DEPLOYABLE): "deployable"}
        assert (await owner.get(f"/v1/models/{SHARED}")).json()["featured"] is True
        assert (await owner.post(f"/v1/models/{DEPLOYABLE}/unshare")).status_code == 200
        assert set(await catalog()) == {str(SHARED)}
        assert (await owner.post(f"/v1/models/{DEPLOYABLE}/share")).status_code == 200
        assert set(await catalog()) == {str(SHARED), str(DEPLOYABLE)}


async def add_what_is_new(database: Database) -> None:
    """What the first schema has no place for, in every table that is new."""
    async with database.write() as session:
        counts = {"deployment_count": 0, "shared_tier_endpoints": 0}
        ahead, place = {"project_id": "proj_acme", "expires_at": 9}, {"key": "k", "multipart_id": "m"}
        session.add_all(
            [
                ShareRow(model_id=PRIVATE, role="deployable", audience="targeted", shared_at=9, **counts),
                DeletionHoldRow(until=9),
                RecallRow(model_id=SHARED, deadline=LATER, reason="Licence.", created_at=9),
                WebhookRow(id=uid(90), project_id="proj_acme", url="https://example.org", events=[], created_at=9),
                OutboxRow(project_id="proj_acme", type="model.shared", at=9, data={}),
                ProcessRow(name="p", address="http://p", version="0.1.0", started_ms=1, seen_ms=2),
                ConfirmationRow(audit_id=uid(50), process="p", at_ms=3),
                AgentLinkRow(token=uid(98), agent_id=uid(41), process="p", address="http://p", seen_at=9),
                WeightDeletionRow(
                    deployment_id=uid(42), agent_id=uid(41), model_id=SHARED, version="1.0.0", asked_at=9
                ),
                UsageWriterRow(id=uid(98), batch=1, written_at=9),
                DeletedVersionRow(model_id=SHARED, version="0.9.0", deleted_at=9),
                OciArtifactRow(version_id=uid(20), file="tiny.gguf", manifest=b"{}", digest="sha256:1"),
                LastShownRow(model_id=PRIVATE, project_id="", version_id=None, versions=[]),
                EndpointTokenRow(endpoint_id=uid(30), token_hash="th", created_at=9, created_by="key:k"),
                DraftRow(name="n", name_key="n", branch="main", tree={}, announced={}, commit="c", **ahead),
                StagedFileRow(sha256="s", name_key="n", size=1, key="k", multipart_id="m", part_size=5, **ahead),
                XorbRow(id=uid(97), name_key="n", generation="1", xorb="x", size=1, is_stored=True, **ahead, **place),
                SignerRow(project_id="proj_acme", name="release", public_key="pem", key_id="0" * 64, created_at=9),
                SignatureRow(version_id=uid(20), bundle=b"{}", key_id="0" * 64),
                StorageRow(id=uid(96), project_id="proj_acme", url="s3://weights", created_at=9),
                RegisteredFileRow(version_id=uid(20), path="f", size=1, etag="e", storage=uid(96).hex),
                MoveRow(
                    id=uid(97),
                    project_id="proj_acme",
                    model_id=SHARED,
                    model_name="m",
                    version_name="1.0.0",
                    storage="platform",
                    state="moving",
                    bytes_total=1,
                    created_at=9,
                ),
                LedgerRow(subject="s", used=1, updated_at=9, loans={}, warned=0, expires_at=LATER),
                ImportRow(
                    project_id="proj_acme",
                    actor="key:k",
                    source="hf:a/b",
                    endpoint="https://hub",
                    name="b",
                    state="failed",
                    created_at=9,
                    progressed_at=9,
                ),
            ]
        )
        person = {"email": "ada@example.org", "name": "Ada", "password_hash": "$argon2id$"}
        session.add(PersonRow(id=uid(94), **person, is_admin=True, created_at=9))
        await session.flush()
        session.add_all(
            [
                MoveFileRow(move_id=uid(97), sha256="0" * 64, size=1, key="k", multipart_id="u", part_size=8),
                SessionRow(hash="sh", person_id=uid(94), created_at=9, expires_at=10),
                MemberRow(project_id="proj_acme", person_id=uid(94), role="owner", added_at=9),
                InvitationRow(
                    id=uid(95), project_id="proj_acme", hash="ih", role="member", created_at=9, expires_at=10
                ),
            ]
        )
        event = {"event_id": uid(92), "type": "model.shared", "body": BODY, "state": "pending", "created_at": 9}
        session.add_all(
            [
                DeliveryRow(id=uid(91), webhook_id=uid(90), **event),
                GivenUpRow(id=uid(94), kind="k", subject="s", attempts=5, error="e", given_up_at=9),
                ClaimLinkRow(id=uid(93), model_id=PRIVATE, hash="lh", max_uses=1, uses=1, created_at=9),
            ]
        )
        await session.flush()
        session.add(ShareProjectRow(model_id=PRIVATE, project_id="proj_borg", link_id=uid(93), added_at=9))
        await session.execute(update(AuditRow).values(changed_ms=7))


async def test_up_down_and_up_again(database: Database, settings: Settings) -> None:
    first = await content_of(database)

    await migrations.upgrade(database)
    upgraded = await content_of(database)
    assert old_part(upgraded) == first
    assert {row["audience"] for row in upgraded["shares"]} == {"public"}

    await use(settings)
    used = await content_of(database)
    await add_what_is_new(database)
    full = await content_of(database)
    assert [table for table, of_table in full.items() if not of_table] == [
        table for table, of_table in used.items() if not of_table and table in rows()
    ], "a new table without data"

    await migrations.downgrade(database, FIRST)
    back = await content_of(database)
    assert back == old_part(used), "all that was there, and no targeted share became public"

    await migrations.upgrade(database)
    again = await content_of(database)
    assert old_part(again) == back
    assert {row["audience"] for row in again["shares"]} == {"public"}


async def test_foreign_keys_hold_after_a_migration(database: Database) -> None:
    """They are off on SQLite while tables are made anew."""
    await migrations.upgrade(database)
    async with database.write() as session:
        await session.execute(delete(ModelRow).where(ModelRow.id == SHARED))
    left = await content_of(database)
    assert [row["role"] for row in left["shares"]] == ["deployable"]
    assert [row["model_id"] for row in left["endpoints"]] == [None, None]
    assert left["deployments"] == left["serving"] == []


async def test_who_sees_an_entry(settings: Settings) -> None:
    """0006: entries say it in terms that nothing else makes."""
    app = create_app(settings)
    async with app.running():
        owner, borg = await new_tenant(app, "acme"), await new_tenant(app, "borg")
        for name, audience in (("public", "public"), ("ublic", {"projects": ["borg"]}), ("argeted", "public")):
            model = await make_model(app, owner.project.id, name=name)
            shared = await owner.http.post(f"/v1/models/{model}/share", json={"audience": audience})
            assert shared.status_code == 200
        await borg.http.aclose()
        await owner.http.aclose()
    database = Database(settings.database)
    await migrations.downgrade(database, "0005")
    old = {row["name"]: row["terms"] for row in (await content_of(database))["catalog_entries"]}
    assert not any(" __" in terms for terms in old.values())
    assert old["public"].endswith(" _public ")
    assert f" _targeted _{owner.project.id} _{borg.project.id} " in old["ublic"]
    await migrations.upgrade(database)
    assert await stale_entries(database) == []
    await database.close()


async def test_models_whose_names_differ_in_case_only_stay(settings: Settings) -> None:
    """0013: from before that was refused. The oldest has the name; the others are found by theirs exactly."""
    app = create_app(settings)
    async with app.running():
        owner = await new_tenant(app, "acme")
        ids = {name: await make_model(app, owner.project.id, name=name) for name in ("Tiny", "other")}
    database = Database(settings.database)
    await migrations.downgrade(database, "0011")
    async with database.engine.begin() as connection:
        await connection.execute(text("UPDATE models SET name = 'tiny' WHERE name = 'other'"))
    await migrations.upgrade(database)
    async with database.read() as session:
        keys = {row.name: row.name_key for row in await session.scalars(select(ModelRow))}
    await database.close()
    assert keys == {"Tiny": "tiny", "tiny": None}
    app = create_app(settings)
    async with app.running(), owner.http, client_of(app, owner.project.api_key) as http:
        found = {name: (await http.get(f"/v1/models/{name}")).json()["id"] for name in ("Tiny", "tiny", "TINY")}
        assert found == {"Tiny": str(ids["Tiny"]), "tiny": str(ids["other"]), "TINY": str(ids["Tiny"])}
        for name in ("TINY", "Tiny"):
            refused = await http.patch(f"/v1/models/{ids['other']}", json={"name": name})
            assert refused.status_code == 409, refused.text
        again = await http.patch(f"/v1/models/{ids['other']}", json={"name": "tiny", "description": "Mine."})
        assert again.status_code == 200, again.text
        assert (await http.patch(f"/v1/models/{ids['other']}", json={"name": "free"})).status_code == 200
        assert (await http.get("/v1/models/FREE")).json()["id"] == str(ids["other"])


async def twins(settings: Settings) -> tuple[Tenant, dict[str, uuid.UUID]]:
    """A project and its models `Tiny`, `tiny` and `TINY`, as they could be before 0013, at the revision before 0021."""
    app = create_app(settings)
    async with app.running():
        owner = await new_tenant(app, "acme")
        ids = {name: await make_model(app, owner.project.id, name=name) for name in ("Tiny", "b", "c")}
    await owner.http.aclose()
    database = Database(settings.database)
    await migrations.downgrade(database, "0011")
    async with database.engine.begin() as connection:
        for name, twin in (("b", "tiny"), ("c", "TINY")):
            await connection.execute(
                text("UPDATE models SET name = :twin WHERE name = :name"), {"twin": twin, "name": name}
            )
    await migrations.upgrade(database, "0020")
    await database.close()
    return owner, {"Tiny": ids["Tiny"], "tiny": ids["b"], "TINY": ids["c"]}


async def test_models_whose_names_differ_in_case_only_are_told_and_stay(settings: Settings) -> None:
    """0021: which of them OCI clients can name; only their owner can say what the others are to be called."""
    await twins(settings)
    database = Database(settings.database)
    with structlog.testing.capture_logs() as logs:
        await migrations.upgrade(database)
    await database.close()
    told = [log["models"] for log in logs if "models" in log]
    assert told == [["acme/Tiny", "acme/TINY"], ["acme/Tiny", "acme/tiny"]]


async def test_a_name_without_regard_to_case_is_handed_on(settings: Settings) -> None:
    """To the oldest model of that name: by 0021 where it became free before, and since then as soon as it does."""
    owner, ids = await twins(settings)
    database = Database(settings.database)
    async with database.engine.begin() as connection:
        await connection.execute(text("UPDATE models SET name = 'x', name_key = 'x' WHERE name = 'Tiny'"))
    await migrations.upgrade(database)
    await database.close()
    app = create_app(settings)
    async with app.running(), client_of(app, owner.project.api_key) as http:
        assert (await http.get("/v1/models/tINY")).json()["id"] == str(ids["tiny"])
        assert (await http.patch(f"/v1/models/{ids['tiny']}", json={"name": "y"})).status_code == 200
        assert (await http.get("/v1/models/tINY")).json()["id"] == str(ids["TINY"])
        assert (await http.delete(f"/v1/models/{ids['TINY']}")).status_code == 204
        assert (await http.patch(f"/v1/models/{ids['tiny']}", json={"name": "tiny"})).status_code == 200


async def test_endpoints_of_a_model_that_is_not_shared_stay_where_they_are(database: Database) -> None:
    """0013: what they followed until then is what they keep."""
    async with database.engine.begin() as connection:
        await connection.execute(text("DELETE FROM shares"))
    await migrations.upgrade(database)
    async with database.read() as session:
        (kept,) = await session.scalars(select(LastShownRow))
    assert (kept.model_id, kept.project_id) == (SHARED, EVERYBODY)
    assert (kept.version_id, kept.versions) == (uid(20), [str(uid(20))])


async def test_what_is_stored_takes_the_terms_that_changed_and_gives_them_back(database: Database) -> None:
    """0016: an action of the audit log, an event that a webhook asks for, and the table of weights to be deleted."""
    await migrations.upgrade(database, "0015")
    async with database.engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO webhooks (id, project_id, url, events, is_active, failures, created_at)"
                 """ VALUES (:id, 'proj_acme', 'https://example.org', '["agent.released", "model.*"]', true, 0, 9)"""),
            {"id": uid(90).hex},
        )  # fmt: skip
        for number, action in enumerate(("member.role", "release.close", "model.share")):
            await connection.execute(
                text("INSERT INTO audit_log (id, at, actor, action, target, outcome, details)"
                     " VALUES (:id, 9, 'system', :action, 'x', 'done', '{}')"),
                {"id": uid(number).hex, "action": action},
            )  # fmt: skip
        await connection.execute(
            text("INSERT INTO releases (deployment_id, agent_id, model_id, version, asked_at, closed_at)"
                 " VALUES (:id, :id, :id, '1.0.0', 5, 7)"),
            {"id": uid(3).hex},
        )  # fmt: skip
    before = await content_of(database)
    await migrations.upgrade(database)
    async with database.read() as session:
        assert set(await session.scalars(select(AuditRow.action))) == {
            "member.change_role", "weight_deletion.close", "model.share",
        }  # fmt: skip
        (webhook,) = await session.scalars(select(WebhookRow))
        assert webhook.events == ["agent.weights_deleted", "model.*"]
        (deletion,) = await session.scalars(select(WeightDeletionRow))
        assert (deletion.deployment_id, deletion.version, deletion.closed_at) == (uid(3), "1.0.0", 7)
    await migrations.downgrade(database, "0015")
    assert await content_of(database) == before


async def test_deliveries_that_wait_take_the_form_that_receivers_expect(database: Database) -> None:
    """0017: their bodies were written by an earlier version."""
    await migrations.upgrade(database, "0015")
    old = '{"id":"1","type":"model.ready","created":1764076182,"project":"proj_acme","data":{"name":"caf\\u00e9"}}'
    async with database.engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO webhooks (id, project_id, url, events, is_active, failures, created_at)"
                 " VALUES (:id, 'proj_acme', 'https://example.org', '[]', true, 0, 9)"),
            {"id": uid(90).hex},
        )  # fmt: skip
        for number in range(1001):
            await connection.execute(
                text("INSERT INTO webhook_deliveries"
                     " (id, webhook_id, event_id, type, body, state, attempts, created_at)"
                     " VALUES (:id, :hook, :id, 'model.ready', :body, 'pending', 0, 9)"),
                {"id": uid(1000 + number).hex, "hook": uid(90).hex, "body": old},
            )  # fmt: skip
    await migrations.upgrade(database)
    async with database.read() as session:
        bodies = {row.body for row in await session.scalars(select(DeliveryRow))}
        (webhook,) = await session.scalars(select(WebhookRow))
    assert webhook.secret_number == 1
    assert bodies == {
        '{"type":"model.ready","timestamp":"2025-11-25T13:09:42Z","id":"1","project":"proj_acme",'
        '"data":{"name":"caf\\u00e9"}}'
    }
    await migrations.downgrade(database, "0015")
    assert {row["body"] for row in (await content_of(database))["webhook_deliveries"]} == {old}
