"""What the playground and the upload say where the platform, or what stands before it, gives no answer."""

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect
from sqlalchemy import update

from browser.conftest import PageFor
from conftest import Tenant
from factories import make_model
from modelshare.demo.tiny_model import write_hf
from modelshare.server.app import Application
from modelshare.server.registry.tables import VersionRow

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]
PROXY = "<html><h1>Sorry</h1></html>"
NO_SENTENCE = '{"error": {"message": {"detail": [1]}}}'
UNREADABLE = "The response cannot be read"
EVENTS = {"content_type": "text/event-stream"}


@pytest.fixture
async def endpoint(app: Application, owner: Tenant) -> str:
    """Where its playground is."""
    model = await make_model(app, owner.project.id)
    made = await owner.http.post("/v1/endpoints", json={"slug": "chat", "model": str(model), "tier": "self_hosted"})
    assert made.status_code == 201
    return "/dashboard/acme/playground?endpoint=chat"


async def ask(page: Page, endpoint: str, answer: dict[str, Any] | None) -> None:
    """Says hello to an endpoint that gives this answer; None: the connection is cut."""

    async def instead(route: Route) -> None:
        await (route.abort() if answer is None else route.fulfill(**answer))

    for route in ("chat/completions", "embeddings"):
        await page.route(f"**/{route}", instead)
    await page.goto(endpoint)
    await page.fill("#prompt", "Hello!")
    await page.click("#send")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "The platform cannot be reached. Check your connection, then try again."),
        ({"status": 429, "json": {"error": {"message": "Wait 7 s, `acme`."}}}, "Wait 7 s, acme."),
        (
            {"status": 429, "body": PROXY, "headers": {"Retry-After": "90"}},
            "Too many requests. Try again in 2 minutes.",
        ),
        ({"status": 413, "body": PROXY}, "The request is too large. Shorten it and try again."),
        ({"status": 502, "body": NO_SENTENCE}, "The platform is not responding. Try again in a moment."),
        ({"status": 418, "body": ""}, "The platform answered 418 without a reason. Try again in a moment."),
        ({"body": f"data: {NO_SENTENCE}\n\n", **EVENTS}, "The endpoint aborted its answer."),
        ({"body": 'data: {"error": {"message": "The machine is gone."}}\n\n', **EVENTS}, "The machine is gone."),
        ({"body": f"data: {PROXY}\n\n", **EVENTS}, UNREADABLE),
        ({"body": PROXY}, "The connection was lost before the answer was complete."),
    ],
)
async def test_the_playground(endpoint: str, page_for: PageFor, answer: dict[str, Any] | None, said: str) -> None:
    page = await page_for("ada")
    await ask(page, endpoint, answer)
    shown = page.locator("#log .bad p")
    await (expect(shown).to_contain_text(said) if said is UNREADABLE else expect(shown).to_have_text(said))
    await expect(page.locator("#prompt")).to_have_value("Hello!")


async def test_the_playground_of_vectors(app: Application, endpoint: str, page_for: PageFor) -> None:
    async with app.database.write() as session:
        await session.execute(update(VersionRow).values(task="embedding"))
    page = await page_for("ada")
    unreadable: list[dict[str, Any]] = [{"body": PROXY}, {"json": {"data": []}}, {"json": [1]}]
    for answer in unreadable:
        await ask(page, endpoint, answer)
        await expect(page.locator("#log .bad p")).to_contain_text(UNREADABLE)
    await ask(page, endpoint, {"json": {"data": [{"embedding": [0.5, 1]}], "usage": {"prompt_tokens": 2}}})
    await expect(page.locator("#log .theirs")).to_contain_text("2 values: 0.5000, 1.0000")


@pytest.mark.parametrize(
    ("answer", "place", "said"),
    [
        ({"status": 413, "body": PROXY}, "#problem", "The request is too large."),
        ({"status": 400, "body": NO_SENTENCE}, "#problem", "The platform answered 400 without a reason."),
        ({"status": 400, "json": {"error": {"message": "No such name."}}}, "#problem", "No such name."),
        (
            {"status": 429, "body": PROXY, "headers": {"Retry-After": "90"}},
            "#state",
            "Too many requests. Trying again in 2 minutes.",
        ),
        ({"status": 200, "body": PROXY}, "#state", UNREADABLE),
    ],
)
async def test_the_upload(tmp_path: Path, page_for: PageFor, answer: dict[str, Any], place: str, said: str) -> None:
    write_hf(tmp_path / "my-model")
    page = await page_for("ada")
    await page.route("**/v1/uploads", lambda route: route.fulfill(**answer))
    await page.goto("/dashboard/acme/models/new")
    await page.set_input_files("#folder", tmp_path / "my-model")
    await page.click("#start")
    shown = page.locator(place)
    await (expect(shown).to_contain_text(said) if said is UNREADABLE else expect(shown).to_have_text(said))
