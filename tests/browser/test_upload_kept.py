"""What a browser has sent is kept: the page says no more than the server has, and goes on from there."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from browser.conftest import PageFor
from browser.test_upload import NEW, PARTS, Sent, choose, is_ready, models
from conftest import Tenant
from modelshare.demo.tiny_model import write_hf
from modelshare.server.http import SESSION_COOKIE
from modelshare.server.settings import Settings
from modelshare.server.storage_errors import PartReplacedError
from uploading import PART, put

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]
MIB = 1 << 20
WEIGHTS = "padding.safetensors"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"uploads_part_size": PART})


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """More parts than are sent at once."""
    path = tmp_path / "large-model"
    write_hf(path, pad_bytes=3 * PART + 1)
    return path


def parts_of(folder: Path) -> int:
    return sum(-(-path.stat().st_size // PART) for path in folder.iterdir())


async def opened(owner: Tenant) -> dict[str, Any]:
    [upload] = (await owner.http.get("/v1/uploads?state=open")).json()["data"]
    return dict(upload)


async def begin(page: Page, folder: Path, *, hold: int) -> Sent:
    """Begins to upload; the parts from the `hold`-th on do not arrive before `go`."""
    sent = Sent(hold=hold)
    await page.route(PARTS, sent)
    await page.goto(NEW)
    await choose(page, folder)
    await page.click("#start")
    await sent.held.wait()
    return sent


def stored(words: str) -> float:
    """Megabytes."""
    found = re.search(r"([\d.]+) (MB|kB) of", words)
    assert found is not None, words
    return float(found[1]) * (1 if found[2] == "MB" else 0.001)


async def test_a_browser_asks_for_small_parts(page_for: PageFor, large: Path) -> None:
    page = await page_for("ada")
    await page.goto(NEW)
    await choose(page, large)
    async with page.expect_request(lambda request: request.method == "POST") as opening:
        await page.click("#start")
    assert f'"part_size":{8 * MIB}' in ((await opening.value).post_data or "")
    await is_ready(page, "large-model")


async def test_a_pause_finishes_what_is_on_its_way_and_says_what_is_kept(
    owner: Tenant, page_for: PageFor, large: Path
) -> None:
    page = await page_for("ada")
    sent = await begin(page, large, hold=6)
    await page.click("#pause")
    await expect(page.locator("#state")).to_have_text("Paused. Waiting for parts in progress…")
    sent.go()
    await expect(page.locator("#state")).to_contain_text("are stored on the server, and kept there until")
    begun = len(sent.parts)
    assert begun <= 6 + 2, "no part is begun in a pause: three are on their way at most"
    upload = await opened(owner)
    assert sum(len(file["parts_done"]) for file in upload["files"]) == begun, "all that were begun have arrived"
    kept = stored(await page.locator("#state").inner_text())
    assert kept == pytest.approx(upload["bytes_done"] / 1e6, abs=0.06)
    assert kept == stored(await page.locator("#bytes").inner_text())
    await expect(page.locator("#on-its-way")).to_be_hidden()
    await page.click("#pause")
    await is_ready(page, "large-model")
    assert len(sent.parts) == len(set(sent.parts)), "nothing is sent twice"


async def test_what_a_reload_loses_is_only_what_was_on_its_way(owner: Tenant, page_for: PageFor, large: Path) -> None:
    page = await page_for("ada")
    sent = await begin(page, large, hold=6)
    said = stored(await page.locator("#bytes").inner_text())
    page.on("dialog", lambda dialog: dialog.accept())
    await page.reload()  # what is on its way goes with the page; what has left it already may arrive still
    kept = await opened(owner)
    assert kept["bytes_done"] / 1e6 >= said - 0.06, "the page says no more than is there"
    arrived = {f"{file['n']}/parts/{k}" for file in kept["files"] for k in file["parts_done"]}
    assert len(arrived) >= len(sent.parts) - 3
    rest = Sent()
    await page.route(PARTS, rest)
    await choose(page, large)
    await expect(page.locator("#chosen")).to_contain_text("This resumes large-model 1.0.0")
    await page.click("#start")
    await is_ready(page, "large-model")
    assert not arrived & set(rest.parts), "what was stored is not sent again"
    assert len(rest.parts) == len(set(rest.parts))


async def test_a_pause_without_a_connection_ends_and_says_what_was_stored(page_for: PageFor, large: Path) -> None:
    page = await page_for("ada")
    sent = await begin(page, large, hold=6)
    await page.context.set_offline(True)
    await page.click("#pause")
    sent.go()
    await expect(page.locator("#state")).to_contain_text("were stored when the server last answered")
    await page.context.set_offline(False)
    await page.click("#pause")
    await is_ready(page, "large-model")


def overwritten(path: Path) -> None:
    """In place, where it was sent already, with the old time: nothing shows it from outside."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"changed after it was sent")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def written_on(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def replaced(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(bytes(path.stat().st_size))
    other.rename(path)


@pytest.mark.parametrize("change", [overwritten, written_on, replaced])
async def test_a_file_that_changes_meanwhile_stops_the_upload(
    owner: Tenant, page_for: PageFor, large: Path, change: Callable[[Path], None]
) -> None:
    page = await page_for("ada")
    sent = await begin(page, large, hold=parts_of(large))  # all was read by then
    change(large / WEIGHTS)
    sent.go()
    await expect(page.locator("#problem")).to_contain_text(f"{WEIGHTS} changed while it was being uploaded")
    await expect(page.locator("#start")).to_have_text("Try again")
    assert (await opened(owner))["state"] == "open", "what was sent is kept"
    assert {model["status"] for model in await models(owner)} == {"uploading"}
    await choose(page, large)
    await page.click("#start")
    await page.wait_for_url("**/models/*-*-*")


async def test_what_somebody_else_sent_for_the_same_file_is_not_published(
    owner: Tenant, page_for: PageFor, large: Path
) -> None:
    page = await page_for("ada")
    sent = await begin(page, large, hold=parts_of(large))
    upload = await opened(owner)
    [n] = [file["n"] for file in upload["files"] if file["path"] == WEIGHTS]
    assert (await put(owner.http, upload, n, 0, bytes(PART))).status_code == 200
    sent.go()
    await expect(page.locator("#problem")).to_contain_text(f"{WEIGHTS} changed while it was being pushed")
    await page.click("#start")
    await is_ready(page, "large-model")


async def test_somebody_who_was_signed_out_goes_on_after_signing_in(page_for: PageFor, large: Path) -> None:
    page = await page_for("ada")
    sent = await begin(page, large, hold=4)
    site = page.url.removesuffix(NEW)
    [token] = [cookie for cookie in await page.context.cookies(page.url) if cookie.get("name") == SESSION_COOKIE]
    await page.context.clear_cookies()
    sent.go()
    await expect(page.locator("#state")).to_contain_text("You were signed out. Sign in again in another tab")
    await expect(page.locator("#pause")).to_have_text("Resume")
    await page.context.add_cookies([{"name": SESSION_COOKIE, "value": token.get("value", ""), "url": site}])
    await page.click("#pause")
    await is_ready(page, "large-model")


async def test_two_tabs_of_the_same_upload_both_end_at_the_model(owner: Tenant, page_for: PageFor, large: Path) -> None:
    first = await page_for("ada")
    sent = await begin(first, large, hold=4)
    second = await first.context.new_page()
    await second.goto(NEW)
    await choose(second, large)
    await expect(second.locator("#start")).to_have_text("Resume")
    await second.click("#start")
    await is_ready(second, "large-model")
    sent.go()
    await is_ready(first, "large-model")
    assert [model["status"] for model in await models(owner)] == ["ready"]


async def test_a_part_that_another_tab_sends_too_is_no_reason_to_give_up(page_for: PageFor, large: Path) -> None:
    page = await page_for("ada")
    gave_way: list[str] = []

    async def clash(route: Route) -> None:
        """As the platform answers the older of two requests, each time that a part is sent first."""
        part = route.request.url
        if part in gave_way:
            await route.continue_()
        else:
            gave_way.append(part)
            error = {
                "message": str(PartReplacedError()),
                "type": "conflict_error",
                "code": "part_replaced",
                "param": None,
            }
            await route.fulfill(status=409, json={"error": error})

    await page.route(PARTS, clash)
    await page.goto(NEW)
    await choose(page, large)
    await page.click("#start")
    await is_ready(page, "large-model")
    assert len(gave_way) == parts_of(large)
