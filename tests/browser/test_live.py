"""Live pages in a browser: they rest while nobody looks, end with their session, leave the keyboard where it was."""

import pytest
from playwright.async_api import Page, expect

from browser.conftest import PageFor
from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]
AGENTS = "/dashboard/acme/agents"
CONNECTIONS = 6
"""That Chromium opens to one site, for all tabs together."""


async def check(page: Page, *, hidden: bool) -> None:
    """As when somebody goes to another tab, or comes back."""
    await page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )


async def test_tabs_that_nobody_looks_at_leave_connections_to_others(page_for: PageFor) -> None:
    first = await page_for("ada")
    for _ in range(CONNECTIONS + 1):
        tab = await first.context.new_page()
        async with tab.expect_request("**/events"):
            await tab.goto(AGENTS)
        await check(tab, hidden=True)
    await first.goto(AGENTS)
    async with first.expect_request("**/events"):
        await check(tab, hidden=False)
        await check(first, hidden=True)
        await check(first, hidden=False)


async def test_a_page_that_is_live_ends_with_its_session(page_for: PageFor) -> None:
    page = await page_for("ada")
    await page.goto(AGENTS)
    other = await page.context.new_page()
    await other.goto("/")
    await other.get_by_role("button", name="Sign out").click()
    await page.wait_for_url(f"**/sign-in?next={AGENTS}")


async def test_the_keyboard_returns_to_a_link_that_is_new(app: Application, owner: Tenant, page_for: PageFor) -> None:
    model = await make_model(app, owner.project.id)
    page = await page_for("ada")
    await page.goto(f"/dashboard/acme/models/{model}")
    await page.press("#delete", "Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await owner.http.post(f"/v1/models/{model}/share")
    await expect(page.locator("#unshare")).to_be_attached()
    await page.keyboard.press("Escape")
    await expect(page.locator("#delete")).to_be_focused()


async def test_a_question_is_not_answered_by_a_key_that_is_held(
    app: Application, owner: Tenant, page_for: PageFor
) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    page = await page_for("ada")
    await page.goto(f"/dashboard/acme/models/{model}")
    await page.press("#unshare", "Enter")
    await expect(page.get_by_role("link", name="Keep it shared")).to_be_focused()


@pytest.fixture
async def model_page(app: Application, owner: Tenant, page_for: PageFor) -> Page:
    """A model's page, which counts the updates that it has received and those that it has shown."""
    page = await page_for("ada")
    await page.add_init_script(
        "const counted = { received: 0, shown: 0 };"
        "const count = (what) => { document.documentElement.dataset[what] = ++counted[what]; };"
        "addEventListener('htmx:sseMessage', () => count('shown'));"
        "window.EventSource = class extends EventSource {"
        "  constructor(url) { super(url); this.addEventListener('message', () => count('received')); }"
        "};"
    )
    await page.goto(f"/dashboard/acme/models/{await make_model(app, owner.project.id)}")
    await expect(page.locator("html")).to_have_attribute("data-received", "1")
    return page


async def test_a_part_that_is_shown_already_is_not_replaced(model_page: Page) -> None:
    assert await model_page.locator("html").get_attribute("data-shown") is None


async def test_a_click_is_not_lost_when_the_part_changes_meanwhile(model_page: Page, owner: Tenant) -> None:
    await model_page.hover("#delete")
    await model_page.mouse.down()
    await owner.http.post(f"/v1/models/{model_page.url.rpartition('/')[2]}/share")
    await expect(model_page.locator("html")).to_have_attribute("data-received", "2")
    await model_page.mouse.up()
    await expect(model_page.get_by_role("dialog")).to_be_visible()
    await expect(model_page.locator("#unshare")).to_be_attached()


async def test_a_key_that_is_released_elsewhere_holds_nothing_back(model_page: Page, owner: Tenant) -> None:
    await model_page.keyboard.down(" ")
    await owner.http.post(f"/v1/models/{model_page.url.rpartition('/')[2]}/share")
    await expect(model_page.locator("html")).to_have_attribute("data-received", "2")
    await expect(model_page.locator("#unshare")).not_to_be_attached()
    await model_page.evaluate("window.dispatchEvent(new Event('blur'))")
    await expect(model_page.locator("#unshare")).to_be_attached()
