"""The ways to install an agent, as tabs, in a real Chromium."""

import os
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from browser.conftest import PageFor, dress
from browser.test_pages import DESK, PHONE, RULES, SCREENSHOTS, Theme, overhang
from conftest import Tenant

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]
WAYS = ("script", "uv", "pip", "systemd")
DRESSES: tuple[tuple[Theme, int], ...] = (("light", DESK), ("dark", PHONE))


async def test_one_way_is_shown_at_a_time_by_mouse_and_by_keyboard(owner: Tenant, page_for: PageFor) -> None:
    page = await page_for("ada")
    await page.goto(f"/dashboard/{owner.project.slug}/agents")
    await page.get_by_label("Name of the key").fill("workstation")
    await page.get_by_role("button", name="Create a join key").click()
    await expect(page.locator("#join-script")).to_be_visible()
    for theme, width in DRESSES:
        await dress(page, theme, width)
        assert (await Axe().run(page, options=RULES)).response["violations"] == []
        for name in WAYS:
            await page.get_by_text(name if name != "script" else "Script", exact=True).click()
            shown = [each for each in WAYS if await page.locator(f"#join-{each}").is_visible()]
            assert shown == [name]
            assert await overhang(page) <= 0
            if SCREENSHOTS:
                await page.screenshot(path=Path(os.fspath(SCREENSHOTS)) / f"join-{name}-{theme}-{width}.png")
    await page.keyboard.press("ArrowLeft")
    await expect(page.locator("#join-pip")).to_be_visible()
