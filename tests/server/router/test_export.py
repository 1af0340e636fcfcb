"""`GET /v1/usage/export`."""

import csv
import datetime as dt
import io
import uuid
from typing import Any

import httpx
import pytest

from answers import ANONYMOUS, problem
from conftest import Tenant, client_of
from factories import make_model
from modelshare.server.app import Application
from modelshare.server.endpoints.deployment_stats import usage_id
from modelshare.server.endpoints.tables import UsageRow
from modelshare.server.router import export

pytestmark = pytest.mark.anyio
PATH = "/v1/usage/export"


async def use(app: Application, project_id: str, **fields: Any) -> None:
    today = dt.datetime.fromtimestamp(app.platform.now(), dt.UTC).date().isoformat()
    counts = {"requests": 3, "errors": 1, "prompt_tokens": 10, "completion_tokens": 20}
    endpoint = fields.pop("endpoint_id", uuid.uuid4())
    row_id = usage_id(endpoint, fields.get("tier", ""), fields.get("version", ""))
    ids = {"endpoint_id": row_id, "of_endpoint_id": endpoint, "key_id": uuid.uuid4()}
    async with app.database.write() as session:
        session.add(
            UsageRow(**{"day": today, "project_id": project_id, "endpoint_slug": "chat", **ids, **counts, **fields})
        )


def table(answered: httpx.Response) -> list[dict[str, str]]:
    assert answered.status_code == 200, answered.text
    return list(csv.DictReader(io.StringIO(answered.text, newline="")))


async def test_a_row_has_names_and_figures_in_both_forms(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    (key,) = (await owner.http.get("/v1/keys")).json()["data"]
    await use(
        app,
        owner.project.id,
        day="2026-01-02",
        model_id=model,
        key_id=uuid.UUID(key["id"]),
        tier="free",
        version="1.0.0",
        estimated=2,
        cost_micros=1_250_000,
        cost_rest=500_000,
    )
    days = {"from": "2026-01-01", "to": "2026-01-31"}
    answered = await owner.http.get(PATH, params=days)
    assert answered.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert 'filename="usage-2026-01-01-to-2026-01-31.csv"' in answered.headers["content-disposition"]
    names = {
        "day": "2026-01-02",
        "endpoint": "chat",
        "model": str(model),
        "model_name": "acme/tiny",
        "version": "1.0.0",
        "tier": "free",
        "key": key["id"],
        "key_name": "first key",
    }
    figures = {"requests": 3, "errors": 1, "prompt_tokens": 10, "completion_tokens": 20, "estimated_requests": 2}
    written = {name: str(figure) for name, figure in figures.items()}
    assert table(answered) == [{**names, **written, "cost": "1.2500005"}]
    as_json = await owner.http.get(PATH, params={**days, "format": "json"})
    assert as_json.headers["content-type"] == "application/json"
    assert as_json.json() == [{**names, **figures, "cost": 1.2500005}]


async def test_nothing_is_a_header_or_an_empty_array(owner: Tenant) -> None:
    empty = await owner.http.get(PATH)
    assert empty.text == ",".join(export.HEADER) + "\r\n"
    assert (await owner.http.get(PATH, params={"format": "json"})).json() == []


async def test_names_are_quoted_and_no_cell_is_a_formula(app: Application, owner: Tenant) -> None:
    names = ["=1+1", "+1", "-1", "@sum(a1)", 'a "quoted", name', "naïve ≈ 名"]
    for name in names:
        made = (await owner.http.post("/v1/keys", json={"name": name})).json()
        await use(app, owner.project.id, key_id=uuid.UUID(made["id"]))
    answered = await owner.http.get(PATH)
    answered.content.decode("utf-8")
    assert answered.text.count("\n") == answered.text.count("\r\n") == len(names) + 1
    assert {row["key_name"] for row in table(answered)} == {*(f"'{name}" for name in names[:4]), *names[4:]}
    rows = (await owner.http.get(PATH, params={"format": "json"})).json()
    assert {row["key_name"] for row in rows} == set(names)


@pytest.mark.parametrize("size", [1, 3, 7])
async def test_every_row_is_there_once_whatever_a_page_holds(
    app: Application, owner: Tenant, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(export, "_PAGE", size)
    endpoint, key = uuid.uuid4(), uuid.uuid4()
    for day, tier, version in (
        *(("2026-01-02", tier, version) for tier in ("", "free", "self_hosted") for version in ("", "1.0.0")),
        ("2026-01-03", "free", "1.0.0"),
        ("2026-01", "free", "1.0.0"),
    ):
        await use(app, owner.project.id, day=day, endpoint_id=endpoint, key_id=key, tier=tier, version=version)
    params = {"from": "2026-01-01", "to": "2026-02-01", "format": "json"}
    rows = (await owner.http.get(PATH, params=params)).json()
    found = [(row["day"], row["tier"] or "", row["version"] or "") for row in rows]
    assert [day for day, _, _ in found] == sorted(day for day, _, _ in found)
    assert len(set(found)) == len(found) == 8


async def test_another_projects_usage_is_not_in_it(app: Application, owner: Tenant, deployer: Tenant) -> None:
    await use(app, deployer.project.id)
    assert table(await owner.http.get(PATH)) == []
    assert len(table(await deployer.http.get(PATH))) == 1


async def test_who_may_not_and_what_does_not_fit(app: Application, owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    assert problem(await anonymous.get(PATH)) == ANONYMOUS
    lesser = (await owner.http.post("/v1/keys", json={"name": "m", "scopes": ["models"]})).json()
    async with client_of(app, lesser["key"]) as http:
        assert (await http.get(PATH)).status_code == 403
    for params in ({"format": "xlsx"}, {"from": "yesterday"}):
        assert (await owner.http.get(PATH, params=params)).status_code == 400
