"""`modelshare import`, from another project's platform and from a Hub, over a kill -9 of the importing server."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from changing_folders import files_below
from model_sources import Hub, content, serving_hub
from modelshare.cli.exit_codes import ExitCode
from programs import serving
from served import free_port, wait_until
from shell import shell, write_model
from uploading import tiny_model

PART = 8 << 20
WEIGHTS = "model.safetensors"


@pytest.mark.anyio
async def test_an_import_outlives_a_kill_of_its_server(tmp_path: Path) -> None:
    hub = Hub(tiny_model(pad=3 * PART))
    held, ranges = asyncio.Event(), []

    def answer(request: Request) -> Response | None:
        if not request.url.path.endswith(WEIGHTS):
            return None
        ranges.append(request.headers.get("range"))
        whole = content(request, hub.files[WEIGHTS])

        async def pieces() -> AsyncIterator[bytes]:
            yield bytes(whole.body)[: PART + 1000]
            await held.wait()

        return whole if len(ranges) > 1 else StreamingResponse(pieces(), 200, dict(whole.headers))

    hub.answer = answer
    port = free_port()
    async with serving_hub(hub):
        with serving(tmp_path, port=port, import_allow_private="true") as server:
            acme = server.project("acme")
            owner = shell(server.url, acme.api_key, tmp_path / "owner")
            words = ("import", "hf:acme/tiny", "--endpoint", hub.url, "--json")
            waiting = asyncio.create_task(asyncio.to_thread(owner.run_program, *words))

            async def first_part() -> bool:
                files = files_below(tmp_path / "data" / "storage")
                marks = [path for path in files if (path.parent.name, path.name) == ("parts", "0")]
                data = [files.get(mark.parent.parent / "data") for mark in marks]
                return any(each is not None and each.st_size > PART for each in data)

            await wait_until(first_part)
            server.process.kill()
        with serving(tmp_path, port=port, import_allow_private="true"):
            result = await waiting
            held.set()
            assert result.returncode == 0, result.stderr
            found = json.loads(result.stdout)
            assert (found["state"], found["version"]) == ("ready", "1.0.0")
            assert ranges[1] == f"bytes={PART}-{len(hub.files[WEIGHTS]) - 1}", "the first part was not asked for again"


def test_from_another_platform_as_its_user_sees_it(tmp_path: Path) -> None:
    with serving(tmp_path, import_allow_private="true") as server:
        acme, other = server.project("acme"), server.project("other")
        owner = shell(server.url, acme.api_key, tmp_path / "owner")
        owner.says("push", str(write_model(tmp_path / "tiny")))
        importer = shell(server.url, other.api_key, tmp_path / "importer")
        token = tmp_path / "token"
        token.write_text(f"{acme.api_key}\n")
        hf = ("import", "hf:acme/tiny", "--endpoint", f"{server.url}/hf", "--token-file", str(token))
        said = importer.says(*hf)
        assert "Imported tiny 1.0.0 from hf:acme/tiny: 3 files, " in said
        assert "Next: modelshare share tiny" in said
        assert "nothing to update" in importer.says(*hf)
        oci = f"oci:{server.url.removeprefix('http://')}/acme/tiny:1.0.0"
        assert "No token given." in importer.refused("import", oci, "--ask-token", code=ExitCode.USAGE)
        refused = importer.run("import", oci, "--name", "copy")
        assert refused.returncode == 1
        assert "does not show it without a token" in refused.stderr
        importer.environment["MODELSHARE_IMPORT_TOKEN"] = acme.api_key
        assert "Imported copy 1.0.0" in importer.says("import", oci, "--name", "copy")
        listed = importer.says("imports", "list")
        assert listed.count("ready") == 3
        assert "does not show it without a token" in listed
