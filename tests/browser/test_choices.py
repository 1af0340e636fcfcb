"""Forms with options that have fields of their own, in a browser: what is typed chooses, and the button says it."""

import re
import uuid
from datetime import UTC, datetime

import pytest
from playwright.async_api import Page, expect

from browser.conftest import PageFor
from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]


@pytest.fixture
async def model(app: Application, owner: Tenant) -> uuid.UUID:
    return await make_model(app, owner.project.id)


async def dialog(page: Page, model: uuid.UUID, opens: str) -> None:
    await page.goto(f"/dashboard/acme/models/{model}")
    await page.click(opens)
    await expect(page.get_by_role("dialog")).to_be_visible()


async def test_who_types_projects_shares_with_them_and_nobody_else(
    owner: Tenant, deployer: Tenant, page_for: PageFor, model: uuid.UUID
) -> None:
    page = await page_for("ada")
    await dialog(page, model, "#share")
    form = page.get_by_role("dialog")
    for option in await form.get_by_role("radio").all():
        await expect(option).not_to_be_checked()
    await form.get_by_label("Slugs or IDs").press_sequentially("borg")
    await expect(form.get_by_label("Certain projects")).to_be_checked()
    await expect(form.get_by_label("Projects that may claim it")).to_be_disabled()
    await form.get_by_role("button", name="Share with 1 project", exact=True).click()
    await expect(page.locator("main")).to_contain_text("tiny is shared with 1 project: borg.")
    assert (await owner.http.get(f"/v1/models/{model}/catalog")).json()["audience"] == "targeted"


async def test_the_button_follows_what_is_chosen_and_typed_with_keys_alone(page_for: PageFor, model: uuid.UUID) -> None:
    page = await page_for("ada")
    await dialog(page, model, "#share")
    form = page.get_by_role("dialog")
    button = form.locator("[data-effect]")
    await form.get_by_role("radio", name="Certain projects").focus()
    await page.keyboard.press("Space")
    await expect(button).to_have_text("Share with certain projects")
    await page.keyboard.press("Tab")
    await page.keyboard.type("borg, umbrella borg")
    await expect(button).to_have_text("Share with 2 projects")
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("ArrowDown")
    await expect(button).to_have_text("Share by a claim link")
    await expect(form.get_by_label("Slugs or IDs")).to_be_disabled()
    await page.keyboard.press("ArrowDown")
    await expect(button).to_have_text("Share with everyone")
    await expect(form.get_by_label("The link expires")).to_be_disabled()


async def test_a_click_on_a_field_that_rests_chooses_its_option(page_for: PageFor, model: uuid.UUID) -> None:
    page = await page_for("ada")
    await dialog(page, model, "#share")
    form = page.get_by_role("dialog")
    await form.get_by_role("radio", name="Everyone").check()
    field = form.get_by_label("Slugs or IDs")
    await expect(field).to_be_disabled()
    await field.click(force=True)
    await expect(field).to_be_focused()
    await expect(form.get_by_role("radio", name="Certain projects")).to_be_checked()


async def test_a_date_that_is_typed_is_when_the_recall_stops_them(
    owner: Tenant, page_for: PageFor, model: uuid.UUID
) -> None:
    await owner.http.post(f"/v1/models/{model}/share")
    page = await page_for("ada")
    await dialog(page, model, "#recall")
    form = page.get_by_role("dialog")
    button = form.locator("[data-effect]")
    await expect(button).to_have_text(re.compile(r"Recall in 7 days, on \d+ \w+ \d{4}, \d\d:\d\d UTC"))
    await form.get_by_label("Date and time, in UTC").fill("2099-12-03T14:00")
    await expect(form.get_by_role("radio", name="At a date and time")).to_be_checked()
    await expect(form.get_by_label("How long")).to_be_disabled()
    await expect(button).to_have_text("Recall on 3 Dec 2099, 14:00 UTC")
    await form.get_by_label("Reason").fill("The licence changed.")
    await button.click()
    await expect(page.locator("main")).to_contain_text("stop on 2099-12-03 14:00 UTC")
    deadline = (await owner.http.get(f"/v1/models/{model}/recall")).json()["notice"]["deadline"]
    assert deadline == int(datetime(2099, 12, 3, 14, tzinfo=UTC).timestamp())


async def test_without_scripts_the_form_comes_back_as_it_was_typed(
    owner: Tenant, deployer: Tenant, page_for: PageFor, model: uuid.UUID
) -> None:
    page = await page_for("ada")
    await page.route("**/static/*.js*", lambda route: route.abort())
    await page.goto(f"/dashboard/acme/models/{model}/share")
    await page.get_by_role("radio", name="Everyone").check()
    await page.get_by_label("Slugs or IDs").fill("borg")
    await page.get_by_role("button", name="Share").click()
    await expect(page.get_by_role("alert")).to_contain_text("The form has “Everyone” selected")
    await expect(page.get_by_label("Slugs or IDs")).to_have_value("borg")
    await expect(page.get_by_role("radio", name="Everyone")).to_be_checked()
    assert not (await owner.http.get(f"/v1/models/{model}")).json()["is_shared"]


async def test_a_key_says_what_it_will_be_good_for(page_for: PageFor) -> None:
    page = await page_for("ada")
    await page.goto("/dashboard/acme/keys/new")
    button = page.locator("[data-effect]")
    await expect(button).to_have_text("Create key for inference")
    await page.get_by_role("checkbox", name="models").check()
    await expect(button).to_have_text("Create key for inference, models")
    await page.get_by_role("radio", name="Call one endpoint").check()
    await page.get_by_label("Only this endpoint").fill("chat")
    await expect(button).to_have_text("Create key for chat")
    await expect(page.get_by_role("checkbox", name="models")).to_be_disabled()
