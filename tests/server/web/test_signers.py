"""The pages of a project's signers, and what pages tell of a model's signature."""

import re

import httpx
import pytest

from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
from modelshare.wire import signing
from page_texts import lines
from server.web.conftest import Somebody
from signing_keys import private_key, private_pem, public_pem, register, sign

pytestmark = pytest.mark.anyio
SIGNERS = "/dashboard/labs/signers"
KEY = private_key()
KEY_ID = signing.key_id(KEY.public_key())


async def test_a_signer_is_added_and_removed(colleague: Somebody, project: str) -> None:
    assert "No signers yet" in (await colleague.get(SIGNERS)).text
    added = await colleague.post(f"{SIGNERS}/new", name="<b>release", public_key=public_pem(KEY))
    assert (added.status_code, added.headers["location"]) == (303, SIGNERS)
    listed = await colleague.get(SIGNERS)
    assert "Its signatures count from now on." in lines(listed)
    assert "&lt;b&gt;release" in listed.text
    assert KEY_ID in lines(listed)
    [signer] = re.findall(r"signers/([0-9a-f-]{36})/remove", listed.text)
    assert "Remove this signer?" in (await colleague.get(f"{SIGNERS}/{signer}/remove")).text
    await colleague.post(f"{SIGNERS}/{signer}/remove")
    assert "No signers yet" in (await colleague.get(SIGNERS)).text


async def test_a_private_key_is_refused_and_not_shown_again(colleague: Somebody, project: str) -> None:
    pem = private_pem(KEY).decode()
    refused = await colleague.post(f"{SIGNERS}/new", name="release", public_key=pem)
    assert refused.status_code == 400
    assert "keep it secret" in refused.text


async def test_what_is_required_is_set_on_the_page(colleague: Somebody, project: str) -> None:
    saved = await colleague.post(f"{SIGNERS}/require", required="yes", allowed_signers=f"{KEY_ID}\r\n")
    assert saved.status_code == 303
    page = await colleague.get(SIGNERS)
    assert re.search(r'name="required" value="yes"[^>]* checked', page.text)
    assert KEY_ID in page.text
    refused = await colleague.post(f"{SIGNERS}/require", required="yes", allowed_signers="release")
    assert refused.status_code == 400
    await colleague.post(f"{SIGNERS}/require")
    assert KEY_ID not in (await colleague.get(SIGNERS)).text


async def test_members_do_not_decide_what_counts(member: Somebody, project: str) -> None:
    assert (await member.get(SIGNERS)).status_code == 403
    assert (await member.post(f"{SIGNERS}/new", name="x", public_key=public_pem(KEY))).status_code == 403


async def test_the_catalog_says_who_signed(app: Application, owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    assert "Signature not signed" in lines(await anonymous.get(f"/models/catalog/{model}"))
    await sign(owner.http, model, KEY)
    assert "Signature unknown signer" in lines(await anonymous.get(f"/models/catalog/{model}"))
    await register(owner.http, KEY)
    assert "Signature signed by release" in lines(await anonymous.get(f"/models/catalog/{model}"))
    assert "signed" in lines(await anonymous.get("/models/catalog"))
