"""A model's page in a browser: sharing by dialogs, and nothing that stands in anybody's way."""

import itertools
import uuid
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from browser.conftest import PageFor, dress
from conftest import Tenant
from factories import add_version, make_model
from modelshare.demo.tiny_model import write_hf
from modelshare.server.app import Application
from uploading import open_upload, send

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]


@pytest.fixture
async def model(app: Application, owner: Tenant) -> uuid.UUID:
    return await make_model(app, owner.project.id)


async def is_accessible(page: Page) -> None:
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


async def test_a_claim_link_is_made_and_shown_in_the_dialog(page_for: PageFor, model: uuid.UUID) -> None:
    page = await page_for("ada")
    await page.goto(f"/dashboard/acme/models/{model}")
    await page.click("text=Share…")
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_role("heading", level=1)).to_have_text("Share tiny")
    await is_accessible(page)
    await dialog.get_by_label("Projects that claim a link").check()
    await dialog.get_by_role("button", name="Share").click()
    await expect(dialog.locator("#claim-link")).to_contain_text("/claim?token=msl_")
    await expect(dialog.get_by_role("group", name="Audience")).to_be_hidden()
    await dialog.get_by_role("link", name="Done").click()
    await expect(page.locator("main")).to_contain_text("No project has claimed a link yet.")


async def test_a_refusal_is_said_in_the_dialog(page_for: PageFor, model: uuid.UUID) -> None:
    page = await page_for("ada")
    await page.goto(f"/dashboard/acme/models/{model}")
    await page.click("text=Delete…")
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Type its name").fill("tony")
    await dialog.get_by_role("button", name="Delete permanently").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("This model is named tiny.")
    await dialog.get_by_role("link", name="Cancel").click()
    await expect(dialog).to_be_hidden()


async def test_what_unsharing_does_is_said_before(owner: Tenant, page_for: PageFor, model: uuid.UUID) -> None:
    await owner.http.post(f"/v1/models/{model}/share")
    page = await page_for("ada")
    await page.goto(f"/dashboard/acme/models/{model}")
    await page.click("text=Unshare…")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("What is no longer possible")
    await is_accessible(page)
    await dialog.get_by_role("button", name="Unshare").click()
    await expect(page.locator("main")).to_contain_text("tiny is no longer in the catalog.")


async def test_a_page_follows_its_model_until_it_can_be_shared(
    owner: Tenant, page_for: PageFor, tmp_path: Path
) -> None:
    write_hf(tmp_path / "tiny")
    files = {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir()}
    upload = await open_upload(owner.http, files)
    page = await page_for("ada")
    await page.goto(f"/dashboard/acme/models/{upload['model']}")
    await expect(page.locator("main")).to_contain_text("is being uploaded")
    await send(owner.http, upload, files)
    await owner.http.post(f"/v1/uploads/{upload['id']}/complete")
    await expect(page.locator("#share")).to_be_visible()
    await expect(page.locator("main")).to_contain_text("model.safetensors")
    await expect(page.locator("#said")).to_have_text("tiny is ready.")


async def test_pages_are_for_everybody(owner: Tenant, page_for: PageFor, model: uuid.UUID) -> None:
    """In both themes, on a desk and on a phone."""
    await owner.http.post(f"/v1/models/{model}/share")
    await open_upload(owner.http, {"model.gguf": b"GGUF"}, "half")
    page = await page_for("ada")
    parts = ("", "/edit", "/share", "/unshare", "/recall", "/delete")
    for path in ("", "/new", *(f"/{model}{part}" for part in parts)):
        await page.goto(f"/dashboard/acme/models{path}")
        for scheme, width in itertools.product(("light", "dark"), (1440, 390)):
            await dress(page, scheme, width)
            await is_accessible(page)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, scheme, width)


async def test_versions_are_gone_back_to_and_deleted(
    app: Application, owner: Tenant, page_for: PageFor, model: uuid.UUID
) -> None:
    await add_version(app, model, "1.1.0")
    await owner.http.post(f"/v1/models/{model}/versions/1.1.0/promote")
    page = await page_for("ada")
    await page.goto(f"/dashboard/acme/models/{model}")
    await page.get_by_role("link", name="Roll back to 1.0.0").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("1.0.0 becomes the latest version of tiny instead of 1.1.0.")
    await is_accessible(page)
    await dialog.get_by_role("button", name="Roll back to 1.0.0").click()
    await expect(page.locator("main")).to_contain_text("1.0.0 is the latest version again, instead of 1.1.0")
    await page.get_by_role("link", name="Edit the notes of 1.1.0").click()
    await dialog.get_by_label("Notes").fill("Sums are wrong.")
    await dialog.get_by_role("button", name="Save").click()
    await expect(page.locator("main")).to_contain_text("Sums are wrong.")
    await page.get_by_role("link", name="Delete 1.1.0").click()
    await expect(dialog).to_contain_text("The number 1.1.0 cannot be used again")
    await dialog.get_by_role("button", name="Delete 1.1.0").click()
    await expect(page.locator("main")).to_contain_text("Version 1.1.0 deleted.")
