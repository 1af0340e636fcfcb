"""Chromium, and pages of the served platform in which somebody is signed in."""

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Protocol

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

from conftest import Tenant
from modelshare.server.app import Application
from modelshare.server.http import SESSION_COOKIE
from persons import sign_up
from served import serving

INSECURE = "modelshare.test"
"""A host whose pages a browser does not trust as it trusts https and its own machine."""
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""The first needs half of what the others do. They are what `scripts/test_programs.sh` looks for."""
FLAGS = ["--no-sandbox", "--disable-background-networking", f"--host-resolver-rules=MAP {INSECURE} 127.0.0.1"]

PATIENCE = 120_000
"""Milliseconds that a page may take to show something: nothing waits so long where it works."""
expect.set_options(timeout=PATIENCE)


class PageFor(Protocol):
    """A page in a browser of its own, for somebody of this name: an owner of the project, or of the one with models.

    None: nobody who is signed in.
    """

    async def __call__(self, name: str | None, project_id: str | None = None) -> Page: ...


@pytest.fixture(scope="session")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """One for all tests: each page has a context of its own, as if nobody had looked at anything before."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip("there is no Chromium")
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield chromium
        await chromium.close()


@pytest.fixture
async def url(running_app: Application) -> AsyncIterator[str]:
    """Where the platform is served."""
    async with serving(running_app) as address:
        yield address


async def dress(page: Page, theme: str, width: int) -> None:
    """Shows what is loaded in this theme and width. No colour may be changing still when it is looked at."""
    await page.emulate_media(color_scheme="dark" if theme == "dark" else "light", reduced_motion="reduce")
    await page.set_viewport_size({"width": width, "height": 900})


@pytest.fixture
async def page_for(app: Application, owner: Tenant, browser: Browser, url: str) -> AsyncIterator[PageFor]:
    """In the end, no page may have had an error of a script, or have tried what its policy forbids."""
    wrong: list[str] = []

    def check(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            wrong.append(message.text)

    async with AsyncExitStack() as stack:

        async def page_of(name: str | None, project_id: str | None = None) -> Page:
            context = await browser.new_context(base_url=url)
            context.set_default_timeout(PATIENCE)
            stack.push_async_callback(context.close)
            token = await sign_up(app, name, project_id or owner.project.id) if name else ""
            for site in (url, url.replace("127.0.0.1", INSECURE)) if name else ():
                await context.add_cookies([{"name": SESSION_COOKIE, "value": token, "url": site}])
            page = await context.new_page()
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("console", check)
            return page

        yield page_of
    assert wrong == []
