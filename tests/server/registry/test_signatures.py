"""What a signature of a version is worth: with its key registered or not, by hand or from the pushed folder."""

import json
import uuid
from typing import Any

import httpx
import pytest

from answers import ANONYMOUS, message, problem
from conftest import Tenant
from factories import add_version, make_model
from modelshare.server.app import Application
from modelshare.wire import signing
from signing_keys import bundle_for, private_key, private_pem, public_pem, register, sign
from uploading import pushed, sha256, tiny_model

pytestmark = pytest.mark.anyio
KEY, OTHER = private_key(), private_key("P-384")


async def states(http: httpx.AsyncClient, model: object) -> list[tuple[str, str | None]]:
    """Of the model, and of its versions."""
    found = [(await http.get(f"/v1/models/{model}")).json()]
    found += (await http.get(f"/v1/models/{model}/versions")).json()["data"]
    return [(each["signature"]["state"], each["signature"]["signer"]) for each in found]


@pytest.fixture
async def model(app: Application, owner: Tenant) -> uuid.UUID:
    return await make_model(app, owner.project.id)


async def test_a_signature_by_a_registered_key_is_valid_and_shows_everywhere(
    owner: Tenant, anonymous: httpx.AsyncClient, model: uuid.UUID
) -> None:
    await owner.http.post(f"/v1/models/{model}/share")
    assert await states(owner.http, model) == [("none", None)] * 2
    await register(owner.http, KEY)
    signed = await sign(owner.http, model, KEY)
    assert signed.json()["signature"] == {"state": "valid", "signer": "release"}
    assert await states(owner.http, model) == [("valid", "release")] * 2
    listed = (await anonymous.get("/v1/catalog/models")).json()["data"]
    shown = (await anonymous.get(f"/v1/catalog/models/{model}")).json()
    for each in (*listed, shown, *shown["versions"]):
        assert each["signature"] == {"state": "valid", "signer": "release"}


async def test_states_follow_the_signers(owner: Tenant, model: uuid.UUID) -> None:
    assert (await sign(owner.http, model, KEY)).json()["signature"]["state"] == "unknown_signer"
    assert await states(owner.http, model) == [("unknown_signer", None)] * 2
    signer = await register(owner.http, KEY)
    assert await states(owner.http, model) == [("valid", "release")] * 2
    assert (await owner.http.delete(f"/v1/signers/{signer['id']}")).status_code == 204
    assert await states(owner.http, model) == [("unknown_signer", None)] * 2
    await register(owner.http, OTHER)
    assert await states(owner.http, model) == [("unknown_signer", None)] * 2
    await register(owner.http, KEY, "again")
    assert await states(owner.http, model) == [("valid", "again")] * 2


async def test_another_projects_signers_count_for_nothing(
    app: Application, owner: Tenant, deployer: Tenant, model: uuid.UUID
) -> None:
    await register(deployer.http, KEY)
    await sign(owner.http, model, KEY)
    assert await states(owner.http, model) == [("unknown_signer", None)] * 2
    theirs = await make_model(app, deployer.project.id, name="theirs")
    await sign(deployer.http, theirs, KEY)
    await register(owner.http, KEY, "mine")
    assert await states(owner.http, model) == [("valid", "mine")] * 2
    assert await states(deployer.http, theirs) == [("valid", "release")] * 2
    assert (await deployer.http.delete("/v1/signers/mine")).status_code == 404
    for path in ("signature", "manifest"):
        assert (await deployer.http.get(f"/v1/models/{model}/versions/1.0.0/{path}")).status_code == 404
    assert (await sign(deployer.http, theirs, KEY)).status_code == 200
    bundle = await bundle_for(owner.http, model, KEY)
    answer = await deployer.http.post(f"/v1/models/{model}/versions/1.0.0/signature", content=bundle)
    assert problem(answer) == (404, "not_found_error", "model_not_found")


def claiming(bundle: bytes, key: signing.PrivateKey) -> bytes:
    """The bundle, said to be made with another key."""
    fields = json.loads(bundle)
    fields["verificationMaterial"]["publicKey"]["hint"] = signing.key_id(key.public_key())
    return json.dumps(fields).encode()


async def test_what_does_not_fit_is_refused_with_the_reason_and_changes_nothing(
    owner: Tenant, model: uuid.UUID
) -> None:
    await register(owner.http, KEY)
    good = await bundle_for(owner.http, model, KEY)
    await sign(owner.http, model, KEY)
    foreign = signing.sign(KEY, {"model.gguf": "0" * 64}, "x")
    more = signing.sign(KEY, {"model.gguf": "0" * 64, "more": "1" * 64}, "x")
    bad: list[tuple[bytes, str]] = [
        (b"", "form"),
        (b"rubbish", "form"),
        (b"{}", "form"),
        (b" " * (signing.MAX_BUNDLE + 1), "8 MiB"),
        (foreign, "model.gguf is changed"),
        (more, "model.gguf is changed"),
        (claiming(await bundle_for(owner.http, model, OTHER), KEY), "did not sign"),
    ]
    for bundle, reason in bad:
        answer = await owner.http.post(f"/v1/models/{model}/versions/1.0.0/signature", content=bundle)
        assert answer.status_code == 400, bundle[:100]
        assert reason in message(answer)
    assert await states(owner.http, model) == [("valid", "release")] * 2
    kept = await owner.http.get(f"/v1/models/{model}/versions/1.0.0/signature")
    assert signing.read_bundle(kept.content).payload == signing.read_bundle(good).payload


async def test_a_claim_to_a_key_is_found_out_when_the_key_is_registered(owner: Tenant, model: uuid.UUID) -> None:
    claimed = claiming(await bundle_for(owner.http, model, OTHER), KEY)
    path = f"/v1/models/{model}/versions/1.0.0/signature"
    assert (await owner.http.post(path, content=claimed)).json()["signature"]["state"] == "unknown_signer"
    await register(owner.http, KEY)
    assert await states(owner.http, model) == [("invalid", None)] * 2
    shown = (await owner.http.get(f"/v1/models/{model}")).json()
    assert "did not sign" in shown["warnings"][0]
    await owner.http.delete("/v1/signers/release")
    assert await states(owner.http, model) == [("invalid", None)] * 2


async def test_only_a_ready_version_is_signed(app: Application, owner: Tenant, model: uuid.UUID) -> None:
    await add_version(app, model, "2.0.0", "processing")
    bundle = await bundle_for(owner.http, model, KEY)
    answer = await owner.http.post(f"/v1/models/{model}/versions/2.0.0/signature", content=bundle)
    assert problem(answer) == (409, "conflict_error", None)
    assert (await owner.http.get(f"/v1/models/{model}/versions/2.0.0/manifest")).status_code == 409
    assert (await owner.http.get(f"/v1/models/{model}/versions/1.0.0/signature")).status_code == 404
    assert (await owner.http.get(f"/v1/models/{model}/versions/9.0.0/signature")).status_code == 404


async def test_signers_are_listed_and_unique(owner: Tenant) -> None:
    first = await register(owner.http, KEY)
    assert first["key_id"] == signing.key_id(KEY.public_key())
    for name, key in (("release", OTHER), ("other", KEY)):
        answer = await owner.http.post("/v1/signers", json={"name": name, "public_key": public_pem(key)})
        assert problem(answer) == (409, "conflict_error", None)
    await register(owner.http, OTHER, "second")
    page = (await owner.http.get("/v1/signers?limit=1")).json()
    assert [each["name"] for each in page["data"]] == ["second"]
    rest = (await owner.http.get(f"/v1/signers?after={page['next_cursor']}")).json()
    assert rest["data"] == [first]
    entries = (await owner.http.get("/v1/audit?action=signer.add")).json()["data"]
    assert [entry["details"]["name"] for entry in entries] == ["second", "release"]


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN PUBLIC KEY-----", "x" * 5000, "a\u0000b", 5, None])
async def test_what_is_no_public_key_is_refused(owner: Tenant, text: Any) -> None:
    answer = await owner.http.post("/v1/signers", json={"name": "release", "public_key": text})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "public_key" or "NUL" in message(answer)


async def test_a_private_key_is_refused_and_not_repeated(owner: Tenant) -> None:
    pem = private_pem(KEY).decode()
    answer = await owner.http.post("/v1/signers", json={"name": "release", "public_key": pem})
    assert answer.status_code == 400
    assert "keep it secret" in message(answer)
    assert pem.splitlines()[1] not in answer.text


async def test_signers_decide_what_counts_so_that_only_owners_change_them(
    owner: Tenant, anonymous: httpx.AsyncClient, app: Application
) -> None:
    body = {"name": "release", "public_key": public_pem(KEY)}
    assert problem(await anonymous.post("/v1/signers", json=body)) == ANONYMOUS
    assert problem(await anonymous.get("/v1/signers")) == ANONYMOUS
    assert problem(await anonymous.patch("/v1/project", json={})) == ANONYMOUS
    made = (await owner.http.post("/v1/keys", json={"name": "ci", "scopes": ["models"]})).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert (await owner.http.get("/v1/signers", headers=headers)).status_code == 200
    assert (await owner.http.post("/v1/signers", json=body, headers=headers)).status_code == 403
    assert (await owner.http.delete("/v1/signers/release", headers=headers)).status_code == 403
    assert (await owner.http.patch("/v1/project", json={}, headers=headers)).status_code == 403


@pytest.mark.usefixtures("running_app")
async def test_a_signature_in_the_pushed_folder_is_taken_and_stays_a_file(owner: Tenant) -> None:
    await register(owner.http, KEY)
    files = tiny_model()
    bundle = signing.sign(KEY, {path: sha256(data) for path, data in files.items()}, "x")
    model = await pushed(owner.http, files | {signing.SIGNATURE_FILE: bundle})
    assert model["signature"] == {"state": "valid", "signer": "release"}
    kept = await owner.http.get(f"/v1/models/{model['id']}/versions/1.0.0/signature")
    assert kept.content == bundle
    manifest = (await owner.http.get(f"/v1/models/{model['id']}/versions/1.0.0/manifest")).json()
    assert signing.SIGNATURE_FILE in [file["path"] for file in manifest["files"]]
    again = await sign(owner.http, model["id"], KEY)
    assert again.json()["signature"]["state"] == "valid"


@pytest.mark.usefixtures("running_app")
@pytest.mark.parametrize("kind", ["rubbish", "too few", "another digest", "too long"])
async def test_a_bad_signature_in_the_folder_makes_the_version_no_worse(owner: Tenant, kind: str) -> None:
    files = tiny_model()
    digests = {path: sha256(data) for path, data in files.items()}
    bundles = {
        "rubbish": b"rubbish",
        "too few": signing.sign(KEY, {"config.json": digests["config.json"]}, "x"),
        "another digest": signing.sign(KEY, digests | {"config.json": "0" * 64}, "x"),
        "too long": b"{" + b" " * signing.MAX_BUNDLE + b"}",
    }
    await register(owner.http, KEY)
    model = await pushed(owner.http, files | {signing.SIGNATURE_FILE: bundles[kind]})
    assert (model["status"], model["signature"]) == ("ready", {"state": "invalid", "signer": None})
    [warning] = [each for each in model["warnings"] if "signature" in each]
    assert warning.startswith("The signature is invalid: ")
    assert (await sign(owner.http, model["id"], KEY)).json()["signature"]["state"] == "valid"
    shown = (await owner.http.get(f"/v1/models/{model['id']}")).json()
    assert not [each for each in shown["warnings"] if "signature" in each]
    revalidated = await owner.http.post(f"/v1/models/{model['id']}/revalidate")
    assert revalidated.json()["signature"]["state"] == "valid", "the folder's own does not replace it"


async def test_a_signature_is_removed(app: Application, owner: Tenant, deployer: Tenant, model: uuid.UUID) -> None:
    url = f"/v1/models/{model}/versions/1.0.0/signature"
    await register(owner.http, KEY)
    await sign(owner.http, model, KEY)
    assert (await deployer.http.delete(url)).status_code == 404
    assert await states(owner.http, model) == [("valid", "release")] * 2
    assert (await owner.http.delete(url)).status_code == 204
    assert await states(owner.http, model) == [("none", None)] * 2
    for request in (owner.http.get, owner.http.delete):
        assert "has no signature" in message(await request(url))
    await register(owner.http, OTHER, "again")
    assert await states(owner.http, model) == [("none", None)] * 2
    actions = [entry["action"] for entry in (await owner.http.get("/v1/audit")).json()["data"]]
    assert actions.count("model.unsign") == 1
    await sign(owner.http, model, KEY)
    assert await states(owner.http, model) == [("valid", "release")] * 2
