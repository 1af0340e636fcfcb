"""Uploading a model from a browser: chosen or dropped, cut off, reloaded, refused."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from browser.conftest import INSECURE, PageFor
from conftest import Tenant
from modelshare.demo.tiny_model import write_hf
from modelshare.server.settings import Settings
from uploading import PART, pushed

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]
NEW = "/dashboard/acme/models/new"
PARTS = "**/v1/uploads/*/files/*/parts/*"
BIG = 3 * PART + 1


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"uploads_part_size": PART})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo's model as somebody has it on disk, with what does not belong into a model."""
    path = tmp_path / "my-model"
    write_hf(path)
    (path / ".git").mkdir()
    (path / ".git" / "config").write_text("secret")
    (path / ".DS_Store").write_bytes(b"\0")
    return path


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big-model"
    write_hf(path, pad_bytes=BIG)
    return path


class Sent:
    """Parts that the page sends; from the `hold`-th on they wait until `go`."""

    def __init__(self, hold: int | None = None) -> None:
        self.parts: list[str] = []
        self.held = asyncio.Event()
        self._hold = hold
        self._go = asyncio.Event()

    async def __call__(self, route: Route) -> None:
        self.parts.append(route.request.url.split("/files/")[1])
        if self._hold is not None and len(self.parts) >= self._hold:
            self.held.set()
            await self._go.wait()
        await route.continue_()

    def go(self) -> None:
        self._go.set()


async def choose(page: Page, folder: Path) -> None:
    await page.set_input_files("#folder", folder)
    await expect(page.locator("#chosen")).to_contain_text("file")
    await expect(page.locator("#start")).to_be_enabled()


async def is_ready(page: Page, name: str) -> None:
    """On the model's page, which became ready without being loaded again."""
    await page.wait_for_url("**/models/*-*-*")
    await expect(page.get_by_role("heading", level=1)).to_have_text(name)
    await expect(page.locator(".badge.good", has_text="ready").first).to_be_visible()


async def models(owner: Tenant) -> list[dict[str, Any]]:
    return list((await owner.http.get("/v1/models?extended=true")).json()["data"])


async def test_a_folder_that_is_chosen_becomes_a_model(owner: Tenant, page_for: PageFor, folder: Path) -> None:
    page = await page_for("ada")
    await page.goto(NEW)
    await choose(page, folder)
    await expect(page.locator("#f-name")).to_have_value("my-model")
    await expect(page.locator("#chosen")).to_contain_text("2 hidden or temporary files left out")
    await page.click("#start")
    await is_ready(page, "my-model")
    [model] = await models(owner)
    detail = (await owner.http.get(f"/v1/models/{model['id']}")).json()
    assert (detail["name"], detail["status"], detail["format"]) == ("my-model", "ready", "safetensors")
    assert ".git" not in await page.locator("main").inner_text()


async def test_a_folder_that_is_dropped_becomes_a_model(owner: Tenant, page_for: PageFor, folder: Path) -> None:
    page = await page_for("ada")
    await page.goto(NEW)
    box = await page.locator("#drop").bounding_box()
    assert box is not None
    devtools = await page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
        place = {"x": box["x"] + 20, "y": box["y"] + 20}
        await devtools.send("Input.dispatchDragEvent", {"type": kind, "data": data, **place})
    await expect(page.locator("#f-name")).to_have_value("my-model")
    await page.click("#start")
    await is_ready(page, "my-model")
    assert [model["status"] for model in await models(owner)] == ["ready"]


async def test_what_went_before_the_connection_was_cut_is_not_sent_again(
    owner: Tenant, page_for: PageFor, big: Path
) -> None:
    page = await page_for("ada")
    sent = Sent(hold=4)
    await page.route(PARTS, sent)
    await page.goto(NEW)
    await choose(page, big)
    await page.click("#start")
    await sent.held.wait()
    before = list(sent.parts)
    await page.context.set_offline(True)
    sent.go()
    await expect(page.locator("#state")).to_contain_text("The connection was lost. Trying again")
    await page.context.set_offline(False)
    await is_ready(page, "big-model")
    assert len(sent.parts) <= len(set(sent.parts)) + 3, "no more than the parts on their way go twice"
    assert set(sent.parts) > set(before)
    assert [model["status"] for model in await models(owner)] == ["ready"]


async def test_another_browser_goes_on_with_what_was_begun(owner: Tenant, page_for: PageFor, big: Path) -> None:
    first = await page_for("ada")
    sent = Sent(hold=5)
    await first.route(PARTS, sent)
    await first.goto(NEW)
    await choose(first, big)
    await first.click("#start")
    await sent.held.wait()
    [upload] = (await owner.http.get("/v1/uploads?state=open")).json()["data"]
    await first.context.close()

    again = await page_for("bob")
    rest = Sent()
    await again.route(PARTS, rest)
    await again.goto(NEW)
    await expect(again.locator("main")).to_contain_text("Unfinished uploads")
    await choose(again, big)
    await expect(again.locator("#chosen")).to_contain_text("This resumes big-model 1.0.0")
    await again.get_by_role("button", name="Resume").first.click()
    await is_ready(again, "big-model")
    total = sum(file["parts"] for file in upload["files"])
    assert 0 < len(rest.parts) < total
    assert [model["id"] for model in await models(owner)] == [upload["model"]]


async def test_a_page_that_is_loaded_again_sends_only_what_is_missing(
    owner: Tenant, page_for: PageFor, big: Path
) -> None:
    page = await page_for("ada")
    sent = Sent(hold=5)
    await page.route(PARTS, sent)
    await page.goto(NEW)
    await choose(page, big)
    await page.click("#start")
    await sent.held.wait()
    done = (await owner.http.get("/v1/uploads?state=open")).json()["data"][0]["bytes_done"]
    assert done > 0
    page.on("dialog", lambda dialog: dialog.accept())
    await page.reload()  # the parts that wait are dropped: nothing but what is done can have arrived whole
    rest = Sent()
    await page.route(PARTS, rest)
    await choose(page, big)
    await expect(page.locator("#start")).to_have_text("Resume")
    await page.click("#start")
    await is_ready(page, "big-model")
    assert len(rest.parts) < len(set(sent.parts) | set(rest.parts))


async def test_pausing_stops_what_is_sent_and_resuming_goes_on(owner: Tenant, page_for: PageFor, big: Path) -> None:
    page = await page_for("ada")
    sent = Sent(hold=4)
    await page.route(PARTS, sent)
    await page.goto(NEW)
    await choose(page, big)
    await page.click("#start")
    await sent.held.wait()
    await page.click("#pause")
    await expect(page.locator("#state")).to_contain_text("Paused.")
    await expect(page.locator("#pause")).to_have_text("Resume")
    sent.go()
    assert [upload["state"] for upload in (await owner.http.get("/v1/uploads")).json()["data"]] == ["open"]
    await page.click("#pause")
    await is_ready(page, "big-model")


async def test_a_pickle_is_refused_before_anything_is_sent(owner: Tenant, page_for: PageFor, folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    page = await page_for("ada")
    await page.goto(NEW)
    await choose(page, folder)
    await page.click("#start")
    refusal = page.locator("#problem")
    await expect(refusal).to_contain_text("pytorch_model.bin is a Python pickle")
    await expect(refusal).to_contain_text("convert the weights to safetensors")
    assert await models(owner) == []


async def test_content_that_is_no_model_is_refused_and_the_page_says_why(
    owner: Tenant, page_for: PageFor, folder: Path
) -> None:
    (folder / "extra.data").write_bytes(b"\x80\x04K\x01.")
    page = await page_for("ada")
    await page.goto(NEW)
    await choose(page, folder)
    await page.click("#start")
    await page.wait_for_url("**/models/*-*-*")
    refusal = page.locator(".note.bad")
    await expect(refusal).to_contain_text("extra.data is a Python pickle")
    await expect(refusal).to_contain_text("convert the weights to safetensors")
    assert [model["status"] for model in await models(owner)] == ["failed"]


async def test_what_is_left_out_is_named(owner: Tenant, page_for: PageFor, folder: Path) -> None:
    names = {
        ".env",
        "id_rsa",
        "wandb/run/a",
        "train/optimizer.pt",
        ".gitattributes",
        "a.log",
        "keep.log",
        ".env.example",
    }
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".modelshareignore").write_text("# ours\n*.log\n!/keep.log\n!.env.ex*\ntrain/**/none\n")
    page = await page_for("ada")
    await page.goto(NEW)
    await choose(page, folder)
    said = page.locator("#chosen")
    for words in (".env (may hold a password or key)", "more."):
        await expect(said).to_contain_text(words)
    listed = set(await page.locator("#names li").all_text_contents())
    kept = {name.partition(" (")[0] for name in listed}
    assert kept & names == {".gitattributes", "keep.log", ".env.example"}
    assert "model.safetensors" in kept
    await page.click("#start")
    await is_ready(page, "my-model")


async def test_a_new_version_sends_only_the_files_that_changed(owner: Tenant, page_for: PageFor, big: Path) -> None:
    files = {path.name: path.read_bytes() for path in big.iterdir()}
    model = await pushed(owner.http, files, "big-model")
    (big / "README.md").write_text("---\nlicense: mit\n---\nAnother card.\n")
    page = await page_for("ada")
    sent = Sent()
    await page.route(PARTS, sent)
    await page.goto(f"/dashboard/acme/models/{model['id']}/new-version")
    await choose(page, big)
    await page.fill("#f-notes", "Another card.\nMind it.")
    await page.select_option("#f-latest", "no")
    await page.click("#start")
    await page.wait_for_url(f"**/models/{model['id']}")
    await expect(page.locator("tr", has_text="1.0.1").locator(".badge.good", has_text="ready")).to_be_visible()
    assert len(sent.parts) == 1
    newest = (await owner.http.get(f"/v1/models/{model['id']}/versions")).json()["data"][0]
    assert (newest["version_notes"], newest["is_latest"]) == ("Another card.\nMind it.", False)
    await expect(page.locator("main")).to_contain_text("latest stays at 1.0.0, because the push requested it.")


async def test_files_without_weights_are_not_sent(page_for: PageFor, folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()
    page = await page_for("ada")
    await page.goto(NEW)
    await page.set_input_files("#folder", folder)
    await expect(page.locator("#problem")).to_contain_text("There are no weights")
    await expect(page.locator("#start")).to_be_disabled()


async def test_a_page_without_https_hashes_by_itself(owner: Tenant, page_for: PageFor, url: str, folder: Path) -> None:
    page = await page_for("ada")
    await page.goto(url.replace("127.0.0.1", INSECURE) + NEW)
    assert await page.evaluate("globalThis.crypto.subtle === undefined")
    await choose(page, folder)
    await page.click("#start")
    await is_ready(page, "my-model")
    assert [model["status"] for model in await models(owner)] == ["ready"]


async def test_cancelling_deletes_what_was_sent(owner: Tenant, page_for: PageFor, big: Path) -> None:
    page = await page_for("ada")
    sent = Sent(hold=4)
    await page.route(PARTS, sent)
    await page.goto(NEW)
    await choose(page, big)
    await page.click("#start")
    await sent.held.wait()
    page.on("dialog", lambda dialog: dialog.accept())
    await page.click("#cancel")
    sent.go()
    await expect(page.locator("#chosen")).to_have_text("No files chosen yet.")
    assert [upload["state"] for upload in (await owner.http.get("/v1/uploads")).json()["data"]] == ["cancelled"]
    assert await models(owner) == []


async def test_a_taken_version_is_said_in_place(owner: Tenant, page_for: PageFor, folder: Path) -> None:
    await pushed(owner.http, {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}, "my-model")
    page = await page_for("ada")
    await page.goto(NEW)
    await choose(page, folder)
    await page.fill("#f-version", "1.0.0")
    await page.click("#start")
    await expect(page.locator("#problem")).to_contain_text("already has a version 1.0.0")
    await expect(page.locator("#start")).to_have_text("Try again")


async def test_a_name_that_does_not_fit_is_said_in_place(owner: Tenant, page_for: PageFor, folder: Path) -> None:
    page = await page_for("ada")
    await page.goto(NEW)
    await choose(page, folder)
    await page.fill("#f-name", "..")
    await page.click("#start")
    await expect(page.locator("#problem")).to_contain_text("`name`: Use 1 to 96 letters")
