"""The pages of a project's keys."""

import re

import httpx
import pytest

from conftest import Tenant, client_of
from modelshare.server.app import Application
from modelshare.server.settings import Settings
from page_texts import lines, message
from server.web.conftest import ON_BOTH_DATABASES, Somebody

pytestmark = pytest.mark.anyio
KEYS = "/dashboard/labs/keys"


def value_in(answer: httpx.Response) -> str:
    found = re.search(r"ms_labs_[\w-]{43}", answer.text)
    assert found, answer.text
    return found[0]


def ids(answer: httpx.Response) -> list[str]:
    return list(dict.fromkeys(re.findall(r"keys/([0-9a-f-]{36})/revoke", answer.text)))


@ON_BOTH_DATABASES
async def test_a_key_is_shown_once_and_works(app: Application, colleague: Somebody, project: str) -> None:
    assert "No keys yet" in (await colleague.get(KEYS)).text
    made = await colleague.post(f"{KEYS}/new", name="website", scopes=["inference", "models"])
    value = value_in(made)
    assert "modelshare login --url http://modelshare.test" in lines(made)
    assert made.headers["cache-control"] == "no-store"
    async with client_of(app, value) as http:
        assert (await http.get("/v1/models")).status_code == 200
        assert (await http.get("/v1/keys")).status_code == 403
    listed = await colleague.get(KEYS)
    assert value not in listed.text
    words = lines(listed)
    assert f"website {value[:12]}…{value[-4:]} inference models active never" in words


async def test_a_key_with_everything_that_can_be_chosen(colleague: Somebody, project: str) -> None:
    await colleague.post(
        f"{KEYS}/new",
        name="<b>edge",
        endpoint="chat",
        allowed_ips="203.0.113.7\r\n\r\n10.0.0.0/8\r\n",
        expires_in=str(7 * 24 * 3600),
    )
    listed = await colleague.get(KEYS)
    assert "&lt;b&gt;edge" in listed.text
    assert "<b>edge" not in listed.text
    assert re.search(r"inference only chat from 203\.0\.113\.7/32 , 10\.0\.0\.0/8 active in \d days", lines(listed))


async def test_in_place_the_value_comes_alone(colleague: Somebody, project: str) -> None:
    answer = await colleague.http.post(f"{KEYS}/new", data={"name": "x"}, headers={"HX-Request": "true"})
    assert (answer.headers["hx-retarget"], answer.headers["hx-reswap"]) == ("#once", "innerHTML show:#once:top")
    assert value_in(answer)
    assert "<html" not in answer.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "n" * 101),
        ("name", " "),
        ("scopes", "everything"),
        ("expires_in", "soon"),
        ("expires_in", "-1"),
        ("allowed_ips", "home"),
        ("endpoint", "No Slug"),
    ],
)
async def test_what_does_not_fit_is_said_in_a_sentence(
    colleague: Somebody, project: str, field: str, value: str
) -> None:
    answer = await colleague.post(f"{KEYS}/new", **{"name": "x", field: value})
    assert answer.status_code == 400
    assert (value if field == "allowed_ips" else field) in message(answer)
    assert "No keys yet" in (await colleague.get(KEYS)).text


async def test_rotating_keeps_the_old_value_for_a_while(app: Application, colleague: Somebody, project: str) -> None:
    old = value_in(await colleague.post(f"{KEYS}/new", name="website"))
    (key,) = ids(await colleague.get(KEYS))
    asked = await colleague.get(f"{KEYS}/{key}/rotate")
    assert "website" in lines(asked)
    assert "(in 1 day)" in lines(asked)
    rotated = await colleague.post(f"{KEYS}/{key}/rotate")
    new = value_in(rotated)
    assert new != old
    assert "The old value works until" in lines(rotated)
    for value in (old, new):
        async with client_of(app, value) as http:
            assert (await http.get("/v1/models")).status_code == 200


class TestWithoutGrace:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"keys_rotation_grace_seconds": 0, "keys_cut_streams": False})

    async def test_the_words_follow_the_settings(self, colleague: Somebody, project: str) -> None:
        await colleague.post(f"{KEYS}/new", name="website")
        (key,) = ids(await colleague.get(KEYS))
        assert "The current value stops working immediately." in lines(await colleague.get(f"{KEYS}/{key}/rotate"))
        assert "may finish; new ones are refused" in lines(await colleague.get(f"{KEYS}/{key}/revoke"))
        assert "The old value no longer works." in lines(await colleague.post(f"{KEYS}/{key}/rotate"))


async def test_revoking(app: Application, colleague: Somebody, project: str) -> None:
    value = value_in(await colleague.post(f"{KEYS}/new", name="website"))
    (key,) = ids(await colleague.get(KEYS))
    asked = lines(await colleague.get(f"{KEYS}/{key}/revoke"))
    assert "is revoked immediately, on every server process" in asked
    assert "aborted, streams included" in asked
    answer = await colleague.post(f"{KEYS}/{key}/revoke")
    assert (answer.status_code, answer.headers["location"]) == (303, KEYS)
    async with client_of(app, value) as http:
        assert (await http.get("/v1/models")).status_code == 401
    listed = await colleague.get(KEYS)
    assert "Key revoked." in lines(listed)
    assert "revoked just now" in lines(listed)
    assert ids(listed) == []
    again = await colleague.post(f"{KEYS}/{key}/rotate")
    assert again.status_code == 409


async def test_suspending_and_resuming(app: Application, colleague: Somebody, project: str) -> None:
    value = value_in(await colleague.post(f"{KEYS}/new", name="website"))
    (key,) = ids(await colleague.get(KEYS))
    asked = lines(await colleague.get(f"{KEYS}/{key}/suspend"))
    assert "is refused immediately, on every server process" in asked
    assert "aborted, streams included" in asked
    await colleague.post(f"{KEYS}/{key}/suspend")
    async with client_of(app, value) as http:
        assert (await http.get("/v1/models")).status_code == 401
        listed = lines(await colleague.get(KEYS))
        assert "website is suspended." in listed
        assert "suspended just now" in listed
        await colleague.post(f"{KEYS}/{key}/resume")
        assert (await http.get("/v1/models")).status_code == 200
    assert "website works again." in lines(await colleague.get(KEYS))


async def test_a_key_of_another_project_is_not_there(colleague: Somebody, project: str, owner: Tenant) -> None:
    key = (await owner.http.get("/v1/keys")).json()["data"][0]["id"]
    for step in ("rotate", "suspend", "revoke"):
        for wrong in (key, "nothing"):
            assert (await colleague.get(f"{KEYS}/{wrong}/{step}")).status_code == 404
            assert (await colleague.post(f"{KEYS}/{wrong}/{step}")).status_code == 404
    assert (await owner.http.get("/v1/keys")).status_code == 200


@pytest.mark.parametrize("page", ["", "/new"])
async def test_who_may_not(
    browser: httpx.AsyncClient, stranger: Somebody, member: Somebody, project: str, page: str
) -> None:
    signed_out = await browser.get(KEYS + page)
    assert signed_out.headers["location"] == f"/sign-in?next={KEYS}{page}"
    assert (await stranger.get(KEYS + page)).status_code == 404
    refused = await member.get(KEYS + page)
    assert (refused.status_code, message(refused)) == (
        403,
        "Only owners of the project may do this. Ask one of them.",
    )
    assert f'href="{KEYS}"' not in (await member.get("/dashboard/-/account")).text
    for somebody, status in ((browser, 303), (stranger.http, 404), (member.http, 403)):
        assert (await somebody.post(f"{KEYS}/new", data={"name": "x"})).status_code == status


async def test_pages(colleague: Somebody, project: str) -> None:
    for name in ("one", "two", "three"):
        await colleague.post(f"{KEYS}/new", name=name)
    first = await colleague.get(f"{KEYS}?limit=2")
    assert len(ids(first)) == 2
    older = re.search(r'href="\?after=([^"]+)"', first.text)
    assert older
    second = await colleague.get(f"{KEYS}?limit=2&after={older[1]}")
    assert len({*ids(first), *ids(second)}) == 3
    assert (await colleague.get(f"{KEYS}?after=nonsense")).status_code == 400
