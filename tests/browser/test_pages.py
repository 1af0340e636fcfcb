"""Every page in a real Chromium: it breaks no rule of accessibility, no policy, no phone; in both themes.

With MODELSHARE_SCREENSHOTS=folder (`make screenshots`) each page is also drawn, in both themes and two widths.
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page
from sqlalchemy import select

from browser.conftest import PageFor, dress
from browser.lived_in import LivedIn, lived_in
from conftest import Tenant
from modelshare.server.accounts.tables import PersonRow
from modelshare.server.app import Application
from modelshare.server.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]
DESK, PHONE = 1440, 390
Theme = Literal["light", "dark"]
SCREENSHOTS = os.environ.get("MODELSHARE_SCREENSHOTS")
IN_THE_README = {("catalog", "light", DESK), ("endpoints", "dark", DESK)}
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhooks_allow_private": True})


@pytest.fixture
async def lived(app: Application, url: str, owner: Tenant, deployer: Tenant) -> AsyncIterator[LivedIn]:
    async with lived_in(app, url, owner, deployer) as found:
        yield found


async def check(page: Page, paths: dict[str, str]) -> None:
    """Looks at each page on a desk in the light, and on a phone in the dark."""
    wrong = []
    for name, path in paths.items():
        await show(page, path, "light", DESK)
        for theme, width in (("light", DESK), ("dark", PHONE)):
            await dress(page, theme, width)
            found = await Axe().run(page, options=RULES)
            wrong += [
                f"{path} {theme}: {each['id']}: {each['nodes'][0]['html']}" for each in found.response["violations"]
            ]
            wrong += [
                f"{path}: the page is {over} px wider than {width}" for over in [await overhang(page)] if over > 0
            ]
            if await page.locator("h1").count() != 1:
                wrong.append(f"{path}: not one heading of the first level")
        if SCREENSHOTS:
            await draw(page, Path(SCREENSHOTS), name, path)
    assert wrong == []


async def show(page: Page, path: str, theme: str, width: int) -> None:
    await dress(page, theme, width)
    answer = await page.goto(path, wait_until="load")
    assert answer is not None
    assert answer.ok, f"{path}: {answer.status}"


async def overhang(page: Page) -> int:
    return int(await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


async def draw(page: Page, folder: Path, name: str, path: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        for width in (DESK, PHONE):
            await show(page, path, theme, width)
            await page.screenshot(path=folder / f"{name}-{theme}-{width}.png", full_page=True)
            if (name, theme, width) in IN_THE_README:
                await page.screenshot(path=folder / f"readme-{name}.png")


async def test_what_everybody_sees(lived: LivedIn, page_for: PageFor) -> None:
    await check(
        await page_for(None),
        {
            "home": "/",
            "catalog": "/models/catalog",
            "catalog-found": "/models/catalog?q=lla&tag=chat",
            "catalog-nothing": "/models/catalog?q=zzzzqqqq",
            "catalog-model": f"/models/catalog/{lived.model}",
            "sign-in": "/sign-in",
            "sign-up": "/sign-up",
        },
    )


async def test_a_projects_models(lived: LivedIn, page_for: PageFor) -> None:
    root = "/dashboard/acme/models"
    await check(
        await page_for("ada"),
        {
            "projects": "/dashboard/-/new",
            "account": "/dashboard/-/account",
            "models": root,
            "models-new": f"{root}/new",
            "model": f"{root}/{lived.model}",
            "model-new-version": f"{root}/{lived.model}/new-version",
            "model-targeted": f"{root}/{lived.targeted}",
            "model-private": f"{root}/{lived.private}",
            "model-recalled": f"{root}/{lived.recalled}",
            "model-edit": f"{root}/{lived.model}/edit",
            "model-share": f"{root}/{lived.private}/share",
            "model-unshare": f"{root}/{lived.model}/unshare",
            "model-recall": f"{root}/{lived.model}/recall",
            "version-notes": f"{root}/{lived.model}/versions/1.0.0/edit",
            "version-rollback": f"{root}/{lived.model}/versions/1.0.0/rollback",
            "version-delete": f"{root}/{lived.model}/versions/1.0.0/delete",
            "model-delete": f"{root}/{lived.private}/delete",
        },
    )


async def test_what_runs(lived: LivedIn, deployer: Tenant, page_for: PageFor) -> None:
    root = "/dashboard/borg"
    await check(
        await page_for("bob", deployer.project.id),
        {
            "endpoints": f"{root}/endpoints",
            "endpoint": f"{root}/endpoints/chat",
            "endpoint-recalled": f"{root}/endpoints/archive",
            "endpoint-new": f"{root}/endpoints/new?model={lived.model}",
            "endpoint-delete": f"{root}/endpoints/chat/delete",
            "agents": f"{root}/agents",
            "agent-remove": f"{root}/agents/{lived.agent}/remove",
            "playground": f"{root}/playground?endpoint=chat",
            "usage": f"{root}/usage",
            "limits": f"{root}/limits",
            "catalog-deploy": f"/models/catalog/{lived.model}?as=borg",
        },
    )


async def test_what_owners_look_after(lived: LivedIn, page_for: PageFor) -> None:
    root = "/dashboard/acme"
    await check(
        await page_for("ada"),
        {
            "keys": f"{root}/keys",
            "key-new": f"{root}/keys/new",
            "key-limits": f"{root}/keys/{lived.key}/limits",
            "key-revoke": f"{root}/keys/{lived.key}/revoke",
            "signers": f"{root}/signers",
            "members": f"{root}/members",
            "imports": f"{root}/models/imports",
            "model-register": f"{root}/models/register",
            "storage": f"{root}/storage",
            "storage-unset": f"{root}/storage/unset",
            "webhooks": f"{root}/webhooks",
            "webhook-new": f"{root}/webhooks/new",
            "webhook": f"{root}/webhooks/{lived.webhook}",
            "webhook-rotate": f"{root}/webhooks/{lived.webhook}/rotate",
            "audit": f"{root}/audit",
            "audit-narrowed": f"{root}/audit?action=model.share",
            "audit-nothing": f"{root}/audit?action=invitation&outcome=refused",
            "usage-owner": f"{root}/usage",
        },
    )


async def test_what_the_platforms_admin_sees(
    app: Application, lived: LivedIn, owner: Tenant, page_for: PageFor
) -> None:
    root = "/dashboard/-/platform"
    page = await page_for("grace")
    async with app.database.write() as session:
        (await session.scalars(select(PersonRow))).one().is_admin = True
    await check(
        page,
        {
            "projects-admin": "/dashboard",
            "platform": root,
            "platform-projects": f"{root}/projects",
            "platform-quota": f"{root}/projects/{owner.project.id}/quota",
            "platform-people": f"{root}/people",
            "platform-agents": f"{root}/agents",
            "platform-tiers": f"{root}/tiers",
            "platform-featured": f"{root}/featured",
            "platform-audit": f"{root}/audit",
        },
    )
