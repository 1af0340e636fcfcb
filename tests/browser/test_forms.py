"""Forms in a browser: sent once, what they show once can be reached by keyboard, and is gone afterwards."""

import asyncio

import pytest
from playwright.async_api import Route, expect

from browser.conftest import PageFor

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]
KEYS, MEMBERS = "/dashboard/acme/keys", "/dashboard/acme/members"


async def test_a_form_that_is_sent_twice_is_sent_once(page_for: PageFor) -> None:
    page = await page_for("ada")
    await page.goto(MEMBERS)
    sent: list[Route] = []
    is_sent = asyncio.Event()

    async def keep(route: Route) -> None:
        sent.append(route)
        is_sent.set()

    await page.route("**/members/invitations", keep)
    await page.get_by_role("button", name="Create link").dblclick()
    await is_sent.wait()
    await sent[0].continue_()
    await expect(page.locator("#invitation-link")).to_be_visible()
    assert len(sent) == 1


async def test_what_is_shown_once_has_the_keyboard_and_does_not_come_back(page_for: PageFor) -> None:
    page = await page_for("ada")
    await page.goto(f"{KEYS}/new")
    await page.get_by_label("Name").fill("website")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Copy the key now")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Copy").first).to_be_focused()
    secret = await page.locator("#key-value").inner_text()
    await page.get_by_role("link", name="I have copied it").click()
    await expect(page.locator("main")).to_contain_text("website")
    assert secret not in await page.content()
    await page.go_back()
    await expect(page.get_by_role("heading", level=1)).to_have_text("New key")
    assert secret not in await page.content()


async def test_a_refusal_is_said_where_the_keyboard_stands(page_for: PageFor) -> None:
    page = await page_for("ada")
    await page.goto(f"{KEYS}/new")
    await page.get_by_label("Name").fill("website")
    await page.get_by_label("Allowed addresses").fill("nowhere")
    await page.get_by_role("button", name="Create key").press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("nowhere")
    await expect(page.get_by_role("button", name="Create key")).to_be_focused()
    await expect(page.get_by_label("Name")).to_have_value("website")


async def test_who_does_not_see_the_page_skips_to_its_content(page_for: PageFor) -> None:
    page = await page_for("ada")
    await page.goto(KEYS)
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("main")).to_be_focused()
