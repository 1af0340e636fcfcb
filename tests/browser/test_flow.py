"""The whole story by people in browsers of their own, with the real server, agent, engine and client of OpenAI."""

import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import openai
import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, expect

from browser.conftest import PATIENCE
from modelshare.demo.tiny_model import REPLY, write_hf
from programs import Server, serving, stop
from receiver import Receiver, receiving

pytestmark = pytest.mark.anyio
PASSWORD = "a quiet walk home"
REASON = "Its licence was withdrawn."
KEEP_PHASES = """
window.phases = [];
new MutationObserver(() => {
  const phase = document.querySelector("main li li .badge")?.textContent;
  if (phase && phase !== window.phases.at(-1)) window.phases.push(phase);
}).observe(document.querySelector("main"), { childList: true, subtree: true });
"""
"""Keeps the phases of the model that the machine holds, as the page shows them one after the other."""

Arrive = Callable[[], Awaitable[Page]]
"""Somebody new, in a browser of their own."""


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "platform", webhooks_allow_private="true") as running:
        yield running


@pytest.fixture
async def arrive(browser: Browser, server: Server) -> AsyncIterator[Arrive]:
    """In the end, no page may have had an error of a script, or have tried what its policy forbids."""
    wrong: list[str] = []

    def check(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            wrong.append(message.text)

    async with AsyncExitStack() as stack:

        async def arrived() -> Page:
            permissions = ["clipboard-read", "clipboard-write"]
            context = await browser.new_context(base_url=server.url, permissions=permissions)
            context.set_default_timeout(PATIENCE)
            stack.push_async_callback(context.close)
            page = await context.new_page()
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("console", check)
            return page

        yield arrived
    assert wrong == []


@contextmanager
def running(command: str, folder: Path) -> Iterator[None]:
    """Runs what a page gave to copy, in a shell, until the block ends."""
    folder.mkdir()
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (folder / "log").open("wb") as log:
        words = ["bash", "-c", f"exec env {command}"]
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        stop(process)


async def test_from_signing_up_to_the_recall(arrive: Arrive, hook: Receiver, tmp_path: Path) -> None:
    ada, bob, cyd = await arrive(), await arrive(), await arrive()
    await sign_up(ada, "Ada", "You are the first user")
    await new_project(ada, "acme")
    await new_webhook(ada, hook)
    model = await upload(ada, tmp_path / "tiny")
    await share(ada, model)
    await sign_up(bob, "Bob", "Already have an account?")
    await new_project(bob, "borg")
    await find_while_typing(bob)
    await deploy(bob)
    blobs = tmp_path / "platform" / "data" / "storage" / "blobs"
    held_back = blobs.rename(blobs.with_name("held-back"))
    with running(await join_command(bob), tmp_path / "box"):
        await follow_until_it_answers(bob, held_back)
        await play(bob)
        await ask_as_a_program(bob)
        await expect_usage(bob)
        await see_who_deploys(ada, model)
        await unshare(ada, model)
        await play(bob)
        await expect_no_new_endpoint(bob, model)
        await join_by_invitation(bob, cyd)
        await claim(cyd, await claim_link(ada, model))
        await recall(ada, bob, model)
        await expect_deliveries(ada, hook)
        await expect_audit_log(ada)
        await look_after_the_platform(ada)


async def sign_up(page: Page, name: str, greeting: str) -> None:
    await page.goto("/")
    await page.get_by_role("banner").get_by_role("link", name="Sign up").click()
    await expect(page.locator("main")).to_contain_text(greeting)
    await fill_in_who(page, name)


async def fill_in_who(page: Page, name: str) -> None:
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("E-mail").fill(f"{name.lower()}@example.org")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("main").get_by_role("button", name="Sign up").click()
    await expect(page.get_by_role("button", name="Sign out")).to_be_visible()


async def new_project(page: Page, slug: str) -> None:
    await page.get_by_role("link", name="New project").first.click()
    await page.get_by_label("Name").fill(slug.title())
    await page.get_by_label("Slug").fill(slug)
    await page.get_by_role("button", name="Create project").click()
    await page.wait_for_url(f"**/dashboard/{slug}/models")


async def new_webhook(page: Page, hook: Receiver) -> None:
    await visit(page, "Webhooks")
    await page.get_by_role("link", name="New webhook").first.click()
    await page.get_by_label("URL").fill(hook.url)
    await page.get_by_role("button", name="Create webhook").click()
    await expect(page.locator("#webhook-secret")).to_have_text(re.compile("^whsec_"))
    await page.get_by_role("link", name="I have copied it").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(hook.url)


async def upload(page: Page, folder: Path) -> str:
    """Path of the model's page, where it becomes ready."""
    write_hf(folder)
    await visit(page, "Models")
    await page.get_by_role("link", name="Upload").first.click()
    await expect(page.locator("#upload")).to_be_visible()  # the page's script listens
    await page.set_input_files("#folder", folder)
    await expect(page.locator("#start")).to_be_enabled()
    await page.click("#start")
    await page.wait_for_url("**/models/*-*-*")
    await expect(page.locator("#share")).to_be_visible()
    await expect(page.locator(".badge.good", has_text="ready").first).to_be_visible()
    return page.url


async def share(page: Page, model: str) -> None:
    await page.goto(model)
    await page.click("#share")
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Everyone").check()
    await dialog.get_by_role("button", name="Share with everyone").click()
    await expect(page.locator("main")).to_contain_text("Everyone sees it in the catalog")


async def find_while_typing(page: Page) -> None:
    await page.get_by_role("link", name="Catalog").first.click()
    await page.get_by_label("Search models").press_sequentially("nothing")
    await expect(page.locator("#count")).to_have_text("No models")
    await page.get_by_label("Search models").fill("")
    await page.get_by_label("Search models").press_sequentially("tin")
    await expect(page.locator("#count")).to_have_text("1 model")
    await page.get_by_role("link", name="tiny").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("tiny")


async def deploy(page: Page) -> None:
    """Asks first why it may not be on a shared tier."""
    panel = page.locator("#deploy")
    await panel.get_by_label("Tier").select_option("gpu_nvidia_shared")
    await expect(panel).to_contain_text("Why not?")
    await expect(panel).to_contain_text("it may be selected on self_hosted only")
    await panel.get_by_label("Tier").select_option("self_hosted")
    await expect(panel).to_contain_text("You can deploy it with these settings.")
    await expect(panel).to_contain_text("No agent of your project is connected, so")
    await panel.get_by_label("Slug").fill("chat")
    await panel.get_by_role("button", name="Create endpoint").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("chat")


async def join_command(page: Page) -> str:
    """What the page of agents puts into the clipboard."""
    await visit(page, "Agents")
    await page.get_by_label("Name of the key").fill("box")
    await page.get_by_role("button", name="Create a join key").click()
    shown = page.locator("#once")
    await shown.get_by_role("button", name="Copy").click()
    await expect(shown.get_by_role("button")).to_have_text("Copied")
    return str(await page.evaluate("navigator.clipboard.readText()"))


async def follow_until_it_answers(page: Page, held_back: Path) -> None:
    """The page of agents says by itself how far the machine is; then the endpoint answers.

    The machine gets the files when the page has shown it at work.
    """
    await page.evaluate(KEEP_PHASES)
    await expect(page.locator("main")).to_contain_text("connected")
    held = page.locator("main li li", has_text="acme/tiny")
    await expect(held.locator(".badge")).to_be_visible()
    held_back.rename(held_back.with_name("blobs"))
    await expect(held.locator(".badge")).to_have_text("ready")
    phases = await page.evaluate("phases")
    assert len(phases) > 1, "it was seen at work before it was ready"
    assert phases[-1] == "ready"
    await visit(page, "Endpoints")
    await page.get_by_role("link", name="chat", exact=True).click()
    await expect(page.get_by_role("heading", level=2).first).to_have_text("Status active")
    await expect(page.locator("main")).to_contain_text("It is ready.")


async def play(page: Page) -> None:
    await visit(page, "Playground")
    await page.get_by_label("Message").fill("Hello!")
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator(".message.theirs").last).to_contain_text(REPLY)


async def ask_as_a_program(page: Page) -> None:
    await visit(page, "Endpoints")
    base_url = await page.locator("#base-chat").inner_text()
    await visit(page, "Keys")
    await page.get_by_role("link", name="New key").first.click()
    await page.get_by_label("Name").fill("website")
    await page.get_by_label("inference").check()
    await page.get_by_role("button", name="Create key").click()
    key = await page.locator("#key-value").inner_text()
    await page.get_by_role("link", name="I have copied it").click()
    await expect(page.locator("main")).to_contain_text("website")
    async with openai.AsyncOpenAI(base_url=base_url, api_key=key) as client:
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello!"}]
        stream = await client.chat.completions.create(model="acme/tiny", messages=messages, stream=True)
        said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert said == REPLY


async def expect_usage(page: Page) -> None:
    async def is_counted() -> None:
        await visit(page, "Usage")
        await expect(page.locator("#by-key")).to_contain_text("website", timeout=2_000)

    await again(is_counted)
    await expect(page.locator("#by-endpoint")).to_contain_text("chat")
    await expect(page.locator("#by-key")).to_contain_text("Bob")


async def see_who_deploys(page: Page, model: str) -> None:
    await page.goto(model)
    await expect(page.locator("main")).to_contain_text("Borg (1)")
    await expect(page.locator("main")).to_contain_text("1 active endpoint")


async def unshare(page: Page, model: str) -> None:
    await page.goto(model)
    await page.click("#unshare")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("1 active endpoint keeps serving, 1 of other projects.")
    await dialog.get_by_role("button", name="Unshare").click()
    await expect(page.locator("main")).to_contain_text("tiny is no longer in the catalog.")


async def expect_no_new_endpoint(page: Page, model: str) -> None:
    await visit(page, "Endpoints")
    await page.get_by_role("link", name="New endpoint").click()
    await page.get_by_label("Model").fill(model.rpartition("/")[2])
    await expect(page.locator("#explanation")).to_contain_text("There is no such model in your project or the catalog.")
    await page.get_by_role("button", name="Create endpoint").click()
    await expect(page.get_by_role("alert")).to_contain_text("unshared")


async def join_by_invitation(owner: Page, colleague: Page) -> None:
    await visit(owner, "Members")
    await owner.get_by_role("button", name="Create link").click()
    await colleague.goto(await owner.locator("#invitation-link").inner_text())
    await expect(colleague.get_by_role("heading", level=1)).to_have_text("Join Borg?")
    await colleague.get_by_role("link", name="Sign up and join").click()
    await fill_in_who(colleague, "Cyd")
    await expect(colleague.get_by_role("navigation", name="Project")).to_be_visible()
    await expect(colleague.get_by_role("link", name="Members")).to_have_count(0)


async def claim_link(page: Page, model: str) -> str:
    await page.goto(model)
    await page.click("#share")
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Projects that claim a link").check()
    await dialog.get_by_role("button", name="Share").click()
    return await dialog.locator("#claim-link").inner_text()


async def claim(page: Page, link: str) -> None:
    await page.goto(link)
    await page.get_by_role("button", name="Claim the model").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("tiny")
    await expect(page.locator("main")).to_contain_text("shared with you, not with the public")


async def recall(owner: Page, deployer: Page, model: str) -> None:
    """The deployer's page says so without being loaded again."""
    await visit(deployer, "Endpoints")
    await owner.goto(model)
    await owner.click("#recall")
    dialog = owner.get_by_role("dialog")
    await dialog.get_by_label("Reason").fill(REASON)
    await dialog.get_by_role("button", name="Recall").click()
    await expect(owner.locator("main")).to_contain_text("Endpoints of other projects stop")
    await expect(deployer.get_by_role("note")).to_contain_text(REASON)


async def expect_deliveries(page: Page, hook: Receiver) -> None:
    await visit(page, "Webhooks")
    await page.get_by_role("link", name=hook.url).click()

    async def is_delivered() -> None:
        await page.reload()
        row = page.locator("tr", has_text="model.recalled")
        await expect(row.locator(".badge.good")).to_have_text("delivered", timeout=2_000)

    await again(is_delivered)
    assert {"model.ready", "model.shared", "model.recalled"} <= {event["type"] for event in hook.events}


async def expect_audit_log(page: Page) -> None:
    await visit(page, "Audit log")
    for action in ("model.share", "model.unshare", "model.recall"):
        await expect(page.locator("tr", has=page.get_by_text(action, exact=True)).first).to_contain_text("Ada")


async def look_after_the_platform(page: Page) -> None:
    await page.get_by_role("link", name="Platform", exact=True).click()
    pages = page.get_by_role("navigation", name="Platform")
    for name, shown in (("Projects", "borg"), ("Users", "cyd@example.org"), ("Tiers", "self_hosted")):
        await pages.get_by_role("link", name=name).click()
        await expect(page.locator("main")).to_contain_text(shown)


async def visit(page: Page, name: str) -> None:
    """Goes to another page of the project."""
    await page.get_by_role("navigation", name="Project").get_by_role("link", name=name).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(name)


async def again(check: Callable[[], Awaitable[None]]) -> None:
    """Retries the check until it passes."""
    deadline = time.monotonic() + PATIENCE / 1000
    while True:
        try:
            await check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        else:
            return
