"""`modelshare serve --demo`, used as its own words say."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from modelshare.client import Client, NotFoundError
from modelshare.wire.endpoints import EndpointCreate
from programs import MODELSHARE, stop, wait_until

SENTENCE = "Hello from the tiny test model."


@dataclass(frozen=True)
class Demo:
    text: str
    url: str
    owner_key: str
    deployer_key: str
    base_url: str
    commands: list[str]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    with (folder / "out.txt").open("w+") as out:
        words = [*MODELSHARE, "serve", "--demo", "--port", "0", "--data-dir", "data"]
        process = subprocess.Popen(words, cwd=folder, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            path = folder / "out.txt"
            wait_until(lambda: "Start over:" in path.read_text() or process.poll() is not None, "the demo is up")
            yield _read(path)
        finally:
            stop(process)
    pgrep = ["pgrep", "-f", str(folder)]
    wait_until(
        lambda: subprocess.run(pgrep, check=False, capture_output=True).stdout == b"",
        "the agent and its engine end with the demo",
    )


def _wait_for_words(path: Path, words: str) -> None:
    wait_until(lambda: words in path.read_text(), f"the demo says {words!r}")


def _read(path: Path) -> Demo:
    text = path.read_text()
    assert "Start over:" in text, text
    url = re.search(r"http://127\.0\.0\.1:\d+", text)
    base = re.search(r"http://\S+/proj_[0-9a-f]{12}/hello/v1", text)
    keys = re.findall(r"(acme|borealis) +\w+ the \w+ +(ms_\S+)", text)
    assert url and base and len(keys) == 2  # noqa: PT018 - one reading of one text
    commands = re.findall(r"# \d\. .*\n +(.+)\n", text)
    return Demo(text, url[0], keys[0][1], keys[1][1], base[0], commands)


def test_the_three_commands_work_as_printed(demo: Demo, tmp_path: Path) -> None:
    assert len(demo.commands) == 3
    outputs = [
        subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True, cwd=tmp_path).stdout
        for command in demo.commands
    ]
    assert json.loads(outputs[0])["data"][0]["name"] == "tiny-chat"
    assert json.loads(outputs[1])["choices"][0]["message"]["content"] == SENTENCE
    assert outputs[2] == f"{SENTENCE}\n"


def test_the_openai_client_streams_and_unshare_leaves_the_endpoint_alone(demo: Demo) -> None:
    client = openai.OpenAI(base_url=demo.base_url, api_key=demo.deployer_key)
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello!"}]

    def ask() -> str:
        return client.chat.completions.create(model="any", messages=messages).choices[0].message.content or ""

    def ask_streaming() -> str:
        stream = client.chat.completions.create(model="any", messages=messages, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    assert (ask(), ask_streaming()) == (SENTENCE, SENTENCE)
    assert [model.id for model in client.models.list()] == ["acme/tiny-chat"]

    with Client(demo.url, demo.owner_key) as owner, Client(demo.url, demo.deployer_key) as deployer:
        (model,) = (each for each in owner.models.list() if each.name == "tiny-chat")
        assert model.deployment_count == 1
        owner.models.unshare(model.id)
        assert model.id not in [each.id for each in deployer.catalog.list()]
        assert (ask(), ask_streaming()) == (SENTENCE, SENTENCE)
        with pytest.raises(NotFoundError, match="unshared"):
            deployer.endpoints.create(EndpointCreate(slug="second", model=model.id, tier="self_hosted"))
        owner.models.share(model.id)


def test_the_readmes_tour_works_as_it_stands(demo: Demo, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    found = re.search(r"<!-- tour: .*?-->\n```bash\n(.*?)```", readme, re.DOTALL)
    assert found
    script = found[1].replace("http://127.0.0.1:8000", demo.url).replace("source .venv/bin/activate\n", "")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ACME": demo.owner_key,
        "BOREALIS": demo.deployer_key,
    }
    done = subprocess.run(
        ["bash", "-e", "-c", script], check=False, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(SENTENCE) == 2, "before and after unsharing"
    assert "catalog role is `deployable`" in done.stdout + done.stderr, "explain says why not"


def test_another_projects_key_learns_nothing(demo: Demo) -> None:
    client = openai.OpenAI(base_url=demo.base_url, api_key=demo.owner_key, max_retries=0)
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="any", messages=[{"role": "user", "content": "Hello!"}])
    assert refused.value.code == "project_not_found"


def test_usage_is_counted(demo: Demo) -> None:
    client = openai.OpenAI(base_url=demo.base_url, api_key=demo.deployer_key)
    client.chat.completions.create(model="any", messages=[{"role": "user", "content": "Hello!"}])
    with Client(demo.url, demo.deployer_key) as deployer:
        rows = wait_until(lambda: [row for row in deployer.usage.list() if row.completion_tokens], "usage is written")
    assert sum(row.requests for row in rows) >= 1


def test_a_second_start_on_the_same_folder_goes_on(tmp_path: Path) -> None:
    """The keys are known from the first time, and the agent comes back without a join key."""
    words = [*MODELSHARE, "serve", "--demo", "--port", "0", "--data-dir", "data"]
    base = ""
    key = ""
    for turn in range(2):
        out = tmp_path / f"out{turn}.txt"
        with out.open("w") as file:
            process = subprocess.Popen(words, cwd=tmp_path, stdout=file, stderr=file, start_new_session=True)
        try:
            _wait_for_words(out, "Start over:" if turn == 0 else "Resuming the demo")
            if turn == 0:
                first = _read(out)
                base, key = first.base_url.partition("/proj_")[2], first.deployer_key
                continue
            found = re.search(r"http://127\.0\.0\.1:\d+", out.read_text())
            assert found
            client = openai.OpenAI(base_url=f"{found[0]}/proj_{base}", api_key=key, max_retries=0)

            def answers(client: openai.OpenAI = client) -> str | None:
                try:
                    reply = client.chat.completions.create(model="x", messages=[{"role": "user", "content": "Hi"}])
                except openai.APIStatusError:
                    return None
                return reply.choices[0].message.content

            assert wait_until(answers, "the endpoint answers again") == SENTENCE
        finally:
            stop(process)


def test_the_printed_python_is_the_one_that_has_openai(demo: Demo) -> None:
    assert demo.commands[2].startswith(sys.executable)
