"""The pages of a project's models: the list, a model's page, and what can be done there."""

import re
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from conftest import Tenant, new_tenant
from factories import add_version, make_model
from modelshare.server.app import Application, create_app
from modelshare.server.settings import Settings
from page_texts import text_after_redirect, text_of
from persons import browser_of, sign_up
from served import serving, wait_until
from server.web.conftest import ON_BOTH_DATABASES
from storage_servers import s3_server
from uploading import open_upload, pushed, tiny_model

pytestmark = pytest.mark.anyio
MODELS = "/dashboard/acme/models"


async def read(owner: Tenant, model: uuid.UUID) -> dict[str, object]:
    return dict((await owner.http.get(f"/v1/models/{model}")).json())


async def test_a_project_without_models_learns_both_ways_to_push(person: httpx.AsyncClient) -> None:
    said = text_of(await person.get(MODELS))
    assert "No models yet" in said
    assert "modelshare login --url http://modelshare.test modelshare push ./my-model --name my-model" in said


@ON_BOTH_DATABASES
async def test_the_list_shows_each_model_as_it_stands(
    app: Application, owner: Tenant, person: httpx.AsyncClient
) -> None:
    shared = await make_model(app, owner.project.id, name="shown", size=4_100_000_000)
    await make_model(app, owner.project.id, name="broken", status="failed")
    await owner.http.post(f"/v1/models/{shared}/share")
    said = text_of(await person.get(MODELS))
    assert "shown ready 1.0.0 4.1 GB everyone deployable 0" in said
    assert "broken failed 1.0.0 1 kB no 0" in said


@ON_BOTH_DATABASES
async def test_the_list_goes_on_where_it_ended(app: Application, owner: Tenant, person: httpx.AsyncClient) -> None:
    for number in range(51):
        await make_model(app, owner.project.id, name=f"model-{number}")
    first = await person.get(MODELS)
    assert "model-50" in first.text
    assert "model-0<" not in first.text
    [onward] = re.findall(r'href="(\?after=[^"]+)"', first.text)
    assert "model-0<" in (await person.get(MODELS + onward)).text
    assert (await person.get(f"{MODELS}?after=nonsense")).status_code == 400


@ON_BOTH_DATABASES
@pytest.mark.usefixtures("running_app")
async def test_a_model_page_tells_its_facts_files_and_versions(owner: Tenant, person: httpx.AsyncClient) -> None:
    model = await pushed(owner.http, tiny_model())
    said = text_of(await person.get(f"{MODELS}/{model['id']}"))
    assert "Format safetensors" in said
    assert model["manifest_digest"] in said
    assert "model.safetensors" in said
    assert "1.0.0 latest ready" in said
    assert "A tiny model for tests." in said


async def test_a_refused_model_says_why(app: Application, owner: Tenant, person: httpx.AsyncClient) -> None:
    model = await make_model(app, owner.project.id, status="failed")
    said = text_of(await person.get(f"{MODELS}/{model}"))
    assert "Version 1.0.0 was rejected. It holds no weights." in said
    assert "It can be shared once it is ready." in said


async def test_what_strangers_wrote_is_text(app: Application, owner: Tenant, person: httpx.AsyncClient) -> None:
    model = await make_model(app, owner.project.id)
    hostile = "<script>alert(1)</script>"
    await owner.http.patch(
        f"/v1/models/{model}",
        json={"display_name": hostile, "description": hostile, "card": hostile, "tags": [hostile]},
    )
    for page in ("", f"/{model}", f"/{model}/edit", f"/{model}/delete", f"/{model}/share", f"/{model}/new-version"):
        assert hostile not in (await person.get(MODELS + page)).text


async def test_edit_changes_and_empties(app: Application, owner: Tenant, person: httpx.AsyncClient) -> None:
    model = await make_model(app, owner.project.id)
    form = {"name": "renamed", "display_name": "Renamed", "description": "", "tags": "a, b, a,", "card": "# Hi\r\nyou"}
    said = await text_after_redirect(person, await person.post(f"{MODELS}/{model}/edit", data=form))
    assert "Saved." in said
    found = await read(owner, model)
    assert (found["name"], found["display_name"], found["description"]) == ("renamed", "Renamed", None)
    assert (found["tags"], found["license"], found["card"]) == (["a", "b"], None, "# Hi\nyou")


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"name": "-bad-"}, 400, "name: Use 1 to 96 letters"),
        ({"name": ""}, 400, "A model needs a name"),
        ({"name": "taken"}, 409, "already has a model taken"),
        ({"name": "tiny", "tags": "x" * 65}, 400, "tags"),
    ],
)
async def test_edit_refuses_what_does_not_fit(
    app: Application, owner: Tenant, person: httpx.AsyncClient, form: dict[str, str], status: int, words: str
) -> None:
    await make_model(app, owner.project.id, name="taken")
    model = await make_model(app, owner.project.id)
    assert words in text_of(await person.post(f"{MODELS}/{model}/edit", data=form), status)
    assert (await read(owner, model))["name"] == "tiny"


async def test_versions_are_promoted_and_gone_back_to(
    app: Application, owner: Tenant, person: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id)
    await add_version(app, model, "1.1.0")
    page = f"{MODELS}/{model}"
    assert "Make latest" in text_of(await person.get(page))
    assert "1.1.0 is now the latest version" in await text_after_redirect(
        person, await person.post(f"{page}/versions/1.1.0/promote")
    )
    assert (await read(owner, model))["version"] == "1.1.0"
    asked = text_of(await person.get(f"{page}/versions/1.0.0/rollback"))
    assert "Roll back to 1.0.0?" in asked
    assert "instead of 1.1.0" in asked
    said = await text_after_redirect(person, await person.post(f"{page}/versions/1.0.0/rollback"))
    assert "1.0.0 is the latest version again, instead of 1.1.0" in said
    assert (await read(owner, model))["version"] == "1.0.0"
    assert "is already the latest version" in text_of(await person.post(f"{page}/versions/1.0.0/rollback"), 409)
    assert "no ready version 9.9.9" in text_of(await person.post(f"{page}/versions/9.9.9/promote"), 404)


async def test_what_is_done_on_pages_is_what_the_catalog_finds(
    app: Application, owner: Tenant, person: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id, family="llama")
    await add_version(app, model, "1.1.0", family="qwen")
    await owner.http.post(f"/v1/models/{model}/share")

    async def found(query: str) -> list[str]:
        return [each["name"] for each in (await owner.http.get(f"/v1/catalog/models?{query}")).json()["data"]]

    await person.post(f"{MODELS}/{model}/versions/1.1.0/promote")
    assert (await found("family=qwen"), await found("family=llama")) == (["tiny"], [])
    await person.post(f"{MODELS}/{model}/versions/1.0.0/rollback")
    assert (await found("family=qwen"), await found("family=llama")) == ([], ["tiny"])
    await person.post(f"{MODELS}/{model}/edit", data={"name": "renamed", "tags": "rare"})
    assert (await found("tag=rare"), await found("q=tiny")) == (["renamed"], [])


@pytest.mark.usefixtures("running_app")
async def test_revalidating_reads_the_bytes_again(owner: Tenant, person: httpx.AsyncClient) -> None:
    model = await pushed(owner.http, tiny_model())
    said = await text_after_redirect(person, await person.post(f"{MODELS}/{model['id']}/revalidate"))
    assert "Revalidation started." in said
    actions = [each["action"] for each in (await owner.http.get("/v1/audit")).json()["data"]]
    assert "model.revalidate" in actions


async def test_deleting_needs_the_name(app: Application, owner: Tenant, person: httpx.AsyncClient) -> None:
    model = await make_model(app, owner.project.id)
    page = f"{MODELS}/{model}/delete"
    assert "Type its name, tiny, to confirm" in text_of(await person.get(page))
    assert "This model is named tiny." in text_of(await person.post(page, data={"name": "tony"}), 400)
    assert "tiny deleted" in await text_after_redirect(person, await person.post(page, data={"name": "tiny"}))
    assert (await owner.http.get(f"/v1/models/{model}")).status_code == 404


async def test_a_model_in_use_elsewhere_stays(
    app: Application, owner: Tenant, deployer: Tenant, person: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    body = {"slug": "theirs", "model": str(model), "tier": "self_hosted"}
    assert (await deployer.http.post("/v1/endpoints", json=body)).status_code == 201
    page = f"{MODELS}/{model}/delete"
    assert "1 active endpoint of other projects uses it" in text_of(await person.get(page))
    assert "cannot be deleted" in text_of(await person.post(page, data={"name": "tiny"}), 409)


async def test_the_upload_page_lists_what_is_not_finished(owner: Tenant, person: httpx.AsyncClient) -> None:
    upload = await open_upload(owner.http, tiny_model(), "half")
    page = await person.get(f"{MODELS}/new")
    assert "half 1.0.0 0 B of" in text_of(page)
    assert f'data-api="/{owner.project.id}/v1"' in page.text
    assert "connect-src 'self';" in page.headers["content-security-policy"]
    said = await text_after_redirect(person, await person.post(f"{MODELS}/uploads/{upload['id']}/cancel"))
    assert "Upload of half 1.0.0 cancelled" in said
    assert (await owner.http.get(f"/v1/uploads/{upload['id']}")).json()["state"] == "cancelled"


async def test_a_new_version_lists_its_own_uploads_only(
    app: Application, owner: Tenant, person: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id)
    await open_upload(owner.http, tiny_model(), "another")
    said = text_of(await person.get(f"{MODELS}/{model}/new-version"))
    assert "A new version of tiny" in said
    assert "another" not in said


async def test_a_bucket_may_be_sent_parts(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(tmp_path / "buckets") as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        application = create_app(settings.model_copy(update={"storage_url": server.url}))
        async with application.running():
            tenant = await new_tenant(application, "acme")
            token = await sign_up(application, "ada", tenant.project.id)
            async with tenant.http, browser_of(application, token) as person:
                upload = await open_upload(tenant.http, tiny_model())
                signed = await tenant.http.post(f"/v1/uploads/{upload['id']}/files/0/parts/0/url")
                policy = (await person.get(f"{MODELS}/new")).headers["content-security-policy"]
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(signed.json()["url"]))
        assert f"connect-src 'self' {origin};" in policy


PAGES = ("", "/edit", "/delete", "/share", "/recall", "/new-version", "/events")
FORMS = (
    "/edit",
    "/delete",
    "/share",
    "/unshare",
    "/recall",
    "/recall/cancel",
    "/revalidate",
    "/versions/1.0.0/promote",
)


async def test_who_is_not_in_the_project_finds_nothing(
    app: Application, owner: Tenant, stranger: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id)
    foreign = f"/dashboard/borg/models/{model}"
    for page in (MODELS, f"{MODELS}/new", *(f"{MODELS}/{model}{page}" for page in PAGES)):
        assert (await stranger.get(page)).status_code == 404, page
    for form in FORMS:
        sent = {"name": "tiny", "reason": "because", "amount": "1"}
        assert (await stranger.post(f"{MODELS}/{model}{form}", data=sent)).status_code == 404, form
        assert (await stranger.post(foreign + form, data=sent)).status_code in {400, 404}, form
    assert (await read(owner, model))["status"] == "ready"


async def test_who_is_not_signed_in_is_sent_to_do_so(
    app: Application, owner: Tenant, visitor: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id)
    for page in (MODELS, f"{MODELS}/new", f"{MODELS}/{model}"):
        answer = await visitor.get(page)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/sign-in?next=")
    assert (await visitor.post(f"{MODELS}/{model}/delete", data={"name": "tiny"})).status_code == 303
    assert (await read(owner, model))["status"] == "ready"


async def test_a_form_from_another_site_is_refused(app: Application, owner: Tenant, person: httpx.AsyncClient) -> None:
    model = await make_model(app, owner.project.id)
    headers = {"Sec-Fetch-Site": "cross-site"}
    answer = await person.post(f"{MODELS}/{model}/delete", data={"name": "tiny"}, headers=headers)
    assert "comes from another site" in text_of(answer, 403)


async def test_a_page_follows_its_model_and_ends_with_it(running_app: Application, owner: Tenant) -> None:
    token = await sign_up(running_app, "ada", owner.project.id)
    upload = await open_upload(owner.http, tiny_model())
    async with serving(running_app) as url, browser_of(running_app, token) as cookies:
        live = httpx.AsyncClient(base_url=url, cookies=cookies.cookies)
        async with live, live.stream("GET", f"{MODELS}/{upload['model']}/events") as events:
            parts = events.aiter_text()
            seen = await anext(parts)
            assert "is being uploaded" in seen
            await owner.http.post(f"/v1/uploads/{upload['id']}/cancel")
            assert [part.strip() async for part in parts if part.strip() not in {"", ":"}] == ["event: over\ndata:"]
            await wait_until(lambda: _closed(events))


async def _closed(events: httpx.Response) -> bool:
    return events.is_stream_consumed


async def test_notes_of_a_version_are_edited(app: Application, owner: Tenant, person: httpx.AsyncClient) -> None:
    model = await make_model(app, owner.project.id)
    page = f"{MODELS}/{model}"
    said = await text_after_redirect(
        person, await person.post(f"{page}/versions/1.0.0/edit", data={"notes": "Mind <b>this</b>."})
    )
    assert "Mind <b>this</b>." in said
    assert "Mind <b>this</b>." in text_of(await person.get(f"{page}/versions/1.0.0/edit"))
    await person.post(f"{page}/versions/1.0.0/edit", data={"notes": ""})
    assert "Mind" not in text_of(await person.get(page))


async def test_a_version_is_deleted_after_a_preview(app: Application, owner: Tenant, person: httpx.AsyncClient) -> None:
    model = await make_model(app, owner.project.id)
    await add_version(app, model, "1.1.0")
    page = f"{MODELS}/{model}"
    assert "It is the latest version. Promote another one" in text_of(await person.get(f"{page}/versions/1.0.0/delete"))
    assert "The number 1.1.0 cannot be used again" in text_of(await person.get(f"{page}/versions/1.1.0/delete"))
    said = await text_after_redirect(person, await person.post(f"{page}/versions/1.1.0/delete"))
    assert "Version 1.1.0 deleted." in said
    assert "It is the latest version." in text_of(await person.post(f"{page}/versions/1.0.0/delete"), 409)


async def test_a_models_page_says_how_oci_clients_pull_it(
    app: Application, owner: Tenant, person: httpx.AsyncClient
) -> None:
    for name, says in (
        ("Tiny", "skopeo copy --src-tls-verify=false docker://modelshare.test/acme/tiny:1.0.0 dir:Tiny"),
        ("a._b", "The model a._b has no OCI name:"),
    ):
        said = text_of(await person.get(f"{MODELS}/{await make_model(app, owner.project.id, name=name)}"))
        assert says in said.replace("`", "")
    empty = await make_model(app, owner.project.id, name="empty", status="processing")
    assert "OCI" not in text_of(await person.get(f"{MODELS}/{empty}"))
