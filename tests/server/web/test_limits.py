"""The page of limits, and the limits of keys on theirs."""

import pytest

from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
from page_texts import lines, message
from server.web.conftest import Somebody

pytestmark = pytest.mark.anyio
PAGE = "/dashboard/acme/limits"
KEYS = "/dashboard/acme/keys"


async def test_what_is_left_of_an_endpoints_limits(app: Application, owner: Tenant, person: Somebody) -> None:
    assert "Limits come with an endpoint" in lines(await person.get(PAGE))
    spec = {"slug": "chat", "model": str(await make_model(app, owner.project.id)), "tier": "self_hosted"}
    assert (await owner.http.post("/v1/endpoints", json=spec)).status_code == 201
    assert "chat endpoint requests at once 100 0 100" in lines(await person.get(PAGE))


async def test_a_budget_is_set_shown_and_taken_away(owner: Tenant, person: Somebody) -> None:
    assert (await person.post(f"{PAGE}/budget", monthly_budget="49.50")).status_code == 303
    words = lines(await person.get(PAGE))
    assert "Budget saved." in words
    assert "acme project money this month 49.50 0.00 49.50" in words
    assert (await owner.http.get("/v1/project")).json()["monthly_budget"] == 49.5
    assert (await person.post(f"{PAGE}/budget", monthly_budget="")).status_code == 303
    assert "Budget removed." in lines(await person.get(PAGE))
    assert (await owner.http.get("/v1/project")).json()["monthly_budget"] is None
    refused = await person.post(f"{PAGE}/budget", monthly_budget="much")
    assert refused.status_code == 400
    assert "monthly_budget" in message(refused)


async def test_a_budget_that_is_used_up_is_told(owner: Tenant, person: Somebody) -> None:
    await person.post(f"{PAGE}/budget", monthly_budget="0")
    for page in (PAGE, "/dashboard/acme/endpoints"):
        words = lines(await person.get(page))
        assert (
            "budget is used up by the project: 0.00 of 0.00. Requests to tiers with a price are refused until" in words
        )


async def test_the_limits_of_a_key(owner: Tenant, person: Somebody) -> None:
    key = (await owner.http.post("/v1/keys", json={"name": "app"})).json()
    assert "Limits of app" in lines(await person.get(f"{KEYS}/{key['id']}/limits"))
    await person.post(f"{KEYS}/{key['id']}/limits", requests_per_minute="60", monthly_token_budget="5000000")
    assert "60 requests per minute 5,000,000 tokens per month" in lines(await person.get(KEYS))
    assert "app key requests per minute 60 0 60" in lines(await person.get(PAGE))
    await person.post(f"{KEYS}/{key['id']}/limits", requests_per_minute="", tokens_per_minute="9")
    shown = next(each for each in (await owner.http.get("/v1/keys")).json()["data"] if each["id"] == key["id"])
    assert (shown["requests_per_minute"], shown["tokens_per_minute"], shown["monthly_token_budget"]) == (None, 9, None)
    refused = await person.post(f"{KEYS}/{key['id']}/limits", requests_per_minute="0")
    assert refused.status_code == 400
