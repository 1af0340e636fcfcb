"""Which of several models in a version is meant: named at the push, chosen by an endpoint, told to agents."""

import httpx
import pytest
from sqlalchemy import select

from conftest import Tenant
from link_agent import enroll, linked
from modelshare.server.app import Application
from modelshare.server.registry.tables import VersionRow
from modelshare.wire.agents import Phase
from served import wait_until
from unit.registry.samples import gguf_file, llama_gguf
from uploading import error_of, opening, processed, pushed, send, tar_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]

CHAT = {"tokenizer.chat_template": "{{ messages }}"}
Q4 = llama_gguf(**CHAT)
Q8 = llama_gguf(**CHAT, **{"general.file_type": 7, "llama.context_length": 512})
BOTH = {"Q4/model.gguf": Q4, "Q4/README.md": b"# Four", "Q8/model.gguf": Q8, "imatrix.gguf": gguf_file({}, {})}


async def test_the_choices_are_listed_with_what_they_are(owner: Tenant) -> None:
    model = await pushed(owner.http, BOTH)
    assert (model["file"], model["quantization"], model["context_length"]) == ("Q4/model.gguf", "Q4_K_M", 4096)
    assert model["choices"] == [
        {
            "file": f"{name}/model.gguf",
            "format": "gguf",
            "quantization": quantization,
            "parameters": 2304,
            "context_length": context,
            "size_bytes": len(data),
        }
        for name, quantization, context, data in (("Q4", "Q4_K_M", 4096, Q4), ("Q8", "Q8_0", 512, Q8))
    ]
    assert any(warning.startswith("imatrix.gguf is a vocabulary") for warning in model["warnings"])


async def test_a_push_names_the_model_and_a_push_that_goes_on_may_name_another(owner: Tenant) -> None:
    model = await pushed(owner.http, BOTH, file="Q8/model.gguf")
    assert (model["file"], model["quantization"]) == ("Q8/model.gguf", "Q8_0")
    first = await owner.http.post("/v1/uploads", json=opening(BOTH, "other", file="Q8/model.gguf"))
    again = await owner.http.post("/v1/uploads", json=opening(BOTH, "other", file="Q4/model.gguf"))
    assert (first.status_code, again.status_code) == (201, 200)
    assert (await pushed(owner.http, BOTH, "other", file="Q4/model.gguf"))["file"] == "Q4/model.gguf"


@pytest.mark.parametrize(
    ("file", "because"),
    [
        (
            "Q5/model.gguf",
            "Q5/model.gguf, which `file` selects as the model, is not among the files; choose one of: Q4/",
        ),
        ("Q4/README.md", "contains no weights; choose one of: Q4/model.gguf, Q8/model.gguf, imatrix.gguf."),
    ],
)
async def test_a_name_that_cannot_be_meant_is_refused_at_once(owner: Tenant, file: str, because: str) -> None:
    answer = await owner.http.post("/v1/uploads", json=opening(BOTH, file=file))
    assert because in error_of(answer, 400)
    assert answer.json()["error"]["param"] == "file"


async def test_a_name_that_is_no_model_is_refused_by_its_content(owner: Tenant) -> None:
    model = await pushed(owner.http, BOTH, file="imatrix.gguf")
    assert model["status"] == "failed"
    assert model["status_reason"].startswith("imatrix.gguf, which `file` selects, is not a model; choose one of: Q4/")


async def deploy(tenant: Tenant, model: str, slug: str, **fields: object) -> httpx.Response:
    return await tenant.http.post("/v1/endpoints", json={"slug": slug, "model": model, "tier": "self_hosted", **fields})


async def test_two_endpoints_of_one_version_serve_two_files(url: str, owner: Tenant) -> None:
    model = await pushed(owner.http, BOTH)
    _, token = await enroll(owner.http)
    async with (
        linked(url, token) as link,
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}) as agent,
    ):
        for slug, file in (("own", None), ("named", "Q4/model.gguf"), ("other", "Q8/model.gguf")):
            answer = await deploy(owner, model["id"], slug, file=file)
            assert (answer.status_code, answer.json()["file"]) == (201, file), answer.text
        four, eight = sorted(await link.wanted(2), key=lambda one: one.root)
        assert [(one.root, one.weights, one.context_length) for one in (four, eight)] == [
            ("Q4", ["Q4/model.gguf"], 4096),
            ("Q8", ["Q8/model.gguf"], 512),
        ]
        assert [[file.path for file in one.files] for one in (four, eight)] == [
            ["Q4/README.md", "Q4/model.gguf"],
            ["Q8/model.gguf"],
        ]
        grant = (await agent.post(f"/v1/agent/deployments/{eight.deployment_id}/grant")).json()
        assert [file["path"] for file in grant["files"]] == ["Q8/model.gguf"]


async def test_an_endpoint_changes_its_file_and_the_one_before_stays_until_it_is_ready(url: str, owner: Tenant) -> None:
    model = await pushed(owner.http, BOTH)
    await deploy(owner, model["id"], "chat")
    _, token = await enroll(owner.http)
    async with linked(url, token) as link:
        (own,) = await link.wanted(1)
        await link.report(own.deployment_id, Phase.READY)
        await until(owner, "chat", status="active", status_reason=None)
        changed = await owner.http.patch("/v1/endpoints/chat", json={"file": "Q8/model.gguf"})
        assert (changed.status_code, changed.json()["file"]) == (200, "Q8/model.gguf")
        both = await link.wanted(2)
        reason = "The new file is not ready yet; the previous one keeps serving."
        await until(owner, "chat", status="active", status_reason=reason)
        (other,) = [one for one in both if one.deployment_id != own.deployment_id]
        await link.report(other.deployment_id, Phase.READY)
        (left,) = await link.wanted(1)
        assert left.weights == ["Q8/model.gguf"]
        back = await owner.http.patch("/v1/endpoints/chat", json={"file": None})
        assert back.json()["file"] is None
        assert len(await link.wanted(2)) == 2


async def test_a_file_that_the_version_lacks_is_refused_with_those_it_has(owner: Tenant) -> None:
    model = await pushed(owner.http, BOTH)
    answer = await deploy(owner, model["id"], "chat", file="Q5/model.gguf")
    words = (
        "Version 1.0.0 of this model does not contain the model `Q5/model.gguf`. Choose one of: Q4/model.gguf, "
        "Q8/model.gguf. "
    )
    assert error_of(answer, 400).startswith(words)
    assert answer.json()["error"]["param"] == "file"
    spec = {"slug": "chat", "model": model["id"], "tier": "self_hosted", "file": "imatrix.gguf"}
    explained = (await owner.http.post("/v1/endpoints/explain", json=spec)).json()
    assert [reason["rule"] for reason in explained["reasons"]] == ["file"]


async def test_an_endpoint_stays_at_the_last_version_that_has_its_file(url: str, owner: Tenant) -> None:
    model = await pushed(owner.http, BOTH)
    await deploy(owner, model["id"], "chat", file="Q8/model.gguf")
    await deploy(owner, model["id"], "own")
    await pushed(owner.http, {"Q4/model.gguf": Q4, "Q2/model.gguf": Q8})
    chat = (await owner.http.get("/v1/endpoints/chat")).json()
    own = (await owner.http.get("/v1/endpoints/own")).json()
    assert (chat["resolved_version"], own["resolved_version"]) == ("1.0.0", "1.0.1")
    off_and_on = [await owner.http.patch("/v1/endpoints/chat", json={"is_active": on}) for on in (False, True)]
    assert [answer.status_code for answer in off_and_on] == [200, 200]
    again = await owner.http.patch("/v1/endpoints/chat", json={"version": "1.0.1"})
    assert "Version 1.0.1 of this model does not contain the model `Q8/model.gguf`" in error_of(again, 400)
    followed = await owner.http.patch("/v1/endpoints/chat", json={"file": "Q2/model.gguf"})
    assert followed.json()["resolved_version"] == "1.0.1"


async def test_an_endpoint_whose_file_a_rollback_takes_away_keeps_answering_and_says_so(
    url: str, owner: Tenant
) -> None:
    await pushed(owner.http, {"Q4/model.gguf": Q4})
    model = await pushed(owner.http, BOTH)
    await deploy(owner, model["id"], "chat", file="Q8/model.gguf")
    _, token = await enroll(owner.http)
    async with linked(url, token) as link:
        (eight,) = await link.wanted(1)
        await link.report(eight.deployment_id, Phase.READY)
        await until(owner, "chat", status="active", status_reason=None)
        back = await owner.http.post(f"/v1/models/{model['id']}/versions/1.0.0/rollback")
        assert back.status_code == 200, back.text
        reason = "No version that this endpoint can serve is ready now; the previous one keeps serving."
        await until(owner, "chat", status="active", status_reason=reason)
        deleted = await owner.http.delete(f"/v1/models/{model['id']}/versions/1.0.1")
        assert "still answers with it" in error_of(deleted, 409)
        own = await owner.http.patch("/v1/endpoints/chat", json={"file": None})
        assert (own.json()["file"], own.json()["resolved_version"]) == (None, "1.0.0")


async def test_a_file_may_be_named_as_any_system_writes_its_letters(owner: Tenant) -> None:
    model = await pushed(owner.http, {"Größe/model.gguf": Q8, "A/model.gguf": Q4}, file="Gro\u0308ße/model.gguf")
    assert model["file"] == "Größe/model.gguf"
    chosen = await deploy(owner, model["id"], "chat", file="Gro\u0308ße/model.gguf")
    assert chosen.json()["file"] == "Größe/model.gguf"


async def test_an_archive_is_judged_by_the_file_that_is_named(owner: Tenant) -> None:
    data = tar_of(BOTH)
    archive = {"filename": "models.tar.gz", "size": len(data)}
    opened = await owner.http.post("/v1/uploads", json={"name": "packed", "archive": archive, "file": "Q8/model.gguf"})
    assert await send(owner.http, opened.json(), {"models.tar.gz": data}) == 1
    completed = await owner.http.post(f"/v1/uploads/{opened.json()['id']}/complete")
    assert (await processed(owner.http, completed.json()))["file"] == "Q8/model.gguf"


async def until(tenant: Tenant, slug: str, **fields: object) -> None:
    async def check() -> bool:
        found = (await tenant.http.get(f"/v1/endpoints/{slug}")).json()
        return all(found[field] == value for field, value in fields.items())

    await wait_until(check)


async def test_a_version_from_before_is_opened_as_described_and_revalidated_to_have_choices(
    app: Application, url: str, owner: Tenant
) -> None:
    model = await pushed(owner.http, BOTH, file="Q8/model.gguf")
    async with app.database.write() as session:
        [row] = await session.scalars(select(VersionRow))
        row.file = None
        row.facts = {name: value for name, value in row.facts.items() if name not in {"root", "companions", "choices"}}
    await deploy(owner, model["id"], "chat")
    _, token = await enroll(owner.http)
    async with linked(url, token) as link:
        (before,) = await link.wanted(1)
        assert (before.root, before.weights) == ("Q8", ["Q8/model.gguf"])
        assert [file.path for file in before.files] == ["Q8/model.gguf"]
    await owner.http.post(f"/v1/models/{model['id']}/revalidate")

    async def revalidated() -> bool:
        found = (await owner.http.get(f"/v1/models/{model['id']}")).json()
        assert (found["file"], found["manifest_digest"]) == ("Q8/model.gguf", model["manifest_digest"])
        return [choice["file"] for choice in found["choices"]] == ["Q8/model.gguf", "Q4/model.gguf"]

    await wait_until(revalidated)
