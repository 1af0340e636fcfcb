"""Uploading from a browser where weights lie in a bucket: parts go straight there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Route, expect

from browser.conftest import PageFor
from browser.test_upload import models
from conftest import Tenant
from modelshare.demo.tiny_model import write_hf
from modelshare.server.settings import Settings
from storage_servers import s3_server
from uploading import PART, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]
NEW = "/dashboard/acme/models/new"


@pytest.fixture
def settings(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lets_browsers_in: bool
) -> Iterator[Settings]:
    with s3_server(tmp_path / "buckets", browsers=lets_browsers_in) as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield settings.model_copy(update={"storage_url": server.url, "uploads_part_size": PART})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "my-model"
    write_hf(path)
    return path


@pytest.mark.parametrize("lets_browsers_in", [True])
async def test_parts_go_to_the_bucket(owner: Tenant, page_for: PageFor, folder: Path) -> None:
    page = await page_for("ada")
    to: list[str] = []
    page.on("request", lambda request: to.append(request.url) if request.method == "PUT" else None)
    await page.goto(NEW)
    await page.set_input_files("#folder", folder)
    await page.click("#start")
    await page.wait_for_url("**/models/*-*-*")
    await expect(page.locator("#share")).to_be_visible()
    assert to
    assert all("/models/weights/" in url and "X-Amz-Signature=" in url for url in to)


@pytest.mark.parametrize("lets_browsers_in", [False])
async def test_a_bucket_that_lets_no_browser_in_is_explained(page_for: PageFor, folder: Path) -> None:
    page = await page_for("ada")
    await page.goto(NEW)
    await page.set_input_files("#folder", folder)
    await page.click("#start")
    await expect(page.locator("#state")).to_contain_text("the bucket's CORS rules")


@pytest.mark.parametrize("lets_browsers_in", [True])
async def test_a_file_that_changed_between_two_visits_is_not_published(
    owner: Tenant, page_for: PageFor, tmp_path: Path
) -> None:
    folder = tmp_path / "large-model"
    write_hf(folder, pad_bytes=3 * PART)
    padding = folder / "padding.safetensors"
    page = await page_for("ada")
    puts = "**/models/weights/**"
    sent: list[str] = []

    async def hold_one(route: Route) -> None:
        sent.append(route.request.url)
        if "partNumber=3" not in route.request.url:
            await route.continue_()

    await page.route(puts, hold_one)
    await page.goto(NEW)
    await page.set_input_files("#folder", folder)
    await page.click("#start")
    await wait_until(lambda: any("partNumber=3" in url for url in sent))
    await expect(page.locator("#bytes")).to_contain_text("11 MB of")
    page.on("dialog", lambda dialog: dialog.accept())
    await page.reload()
    await page.unroute(puts)
    with padding.open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"changed after it was sent")
    await page.set_input_files("#folder", folder)
    await expect(page.locator("#start")).to_have_text("Resume")
    await page.click("#start")
    await page.wait_for_url("**/models/*-*-*")
    await expect(page.locator(".note.bad")).to_contain_text("padding.safetensors does not match its announced SHA-256")
    assert [model["status"] for model in await models(owner)] == ["failed"]
