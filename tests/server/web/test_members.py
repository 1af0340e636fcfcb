"""The pages of a project's people."""

import re

import httpx
import pytest

from modelshare.server.app import Application
from page_texts import lines, message
from server.web.conftest import ON_BOTH_DATABASES, SignUp, Somebody, new_project, token_in

pytestmark = pytest.mark.anyio
MEMBERS = "/dashboard/labs/members"


async def ids(owner: Somebody) -> dict[str, str]:
    """The members' ids by their e-mails, as the page links them."""
    rows = (await owner.get(MEMBERS)).text.split("<tr>")
    return {
        email[1]: link[1]
        for row in rows
        if (email := re.search(r"<bdi>([\w.]+@[\w.]+)</bdi>", row))
        and (link := re.search(r"members/([0-9a-f-]{36})", row))
    }


@ON_BOTH_DATABASES
async def test_an_invitation_is_a_link_that_works_once(colleague: Somebody, project: str, sign_up: SignUp) -> None:
    invited = await colleague.post(f"{MEMBERS}/invitations", role="owner")
    token = token_in(invited)
    assert f"http://modelshare.test/join?token={token}" in invited.text
    waiting = await colleague.get(MEMBERS)
    assert token not in waiting.text
    assert "Pending invitations" in lines(waiting)
    assert re.search(r"owner just now in 6 days|owner just now in 7 days", lines(waiting))
    somebody = await sign_up("Mia", invitation=token)
    assert (await somebody.get(MEMBERS)).status_code == 200
    after = lines(await colleague.get(MEMBERS))
    assert "Mia mia@example.org owner" in after
    assert "Pending invitations" not in after


@ON_BOTH_DATABASES
async def test_pages(colleague: Somebody, project: str, member: Somebody) -> None:
    first = await colleague.get(f"{MEMBERS}?limit=1")
    more = re.search(r'href="\?(after=[^"]+)">More', first.text)
    assert more
    second = await colleague.get(f"{MEMBERS}?limit=1&{more[1]}")
    assert [colleague.email in page.text for page in (first, second)] == [True, False]
    assert [member.email in page.text for page in (first, second)] == [False, True]
    assert ">More</a>" not in second.text
    person = (await ids(colleague))[member.email]
    await colleague.post(f"{MEMBERS}/{person}/remove")
    assert "No more members" in lines(await colleague.get(f"{MEMBERS}?limit=1&{more[1]}"))
    assert (await colleague.get(f"{MEMBERS}?after=nonsense")).status_code == 400


async def test_in_place_the_link_comes_alone(colleague: Somebody, project: str) -> None:
    answer = await colleague.http.post(
        f"{MEMBERS}/invitations", data={"role": "member"}, headers={"HX-Request": "true"}
    )
    assert answer.headers["hx-retarget"] == "#once"
    assert token_in(answer)
    assert "<html" not in answer.text


async def test_an_invitation_is_ended(colleague: Somebody, project: str, browser: httpx.AsyncClient) -> None:
    token = token_in(await colleague.post(f"{MEMBERS}/invitations", role="member"))
    end = re.search(r'action="([^"]+/end)"', (await colleague.get(MEMBERS)).text)
    assert end
    assert (await colleague.post(end[1])).headers["location"] == MEMBERS
    assert (await browser.get(f"/join?token={token}")).status_code == 404
    assert (await colleague.post(end[1])).status_code == 404


async def test_roles(colleague: Somebody, project: str, member: Somebody) -> None:
    mia = (await ids(colleague))[member.email]
    assert (await member.get(MEMBERS)).status_code == 403
    await colleague.post(f"{MEMBERS}/{mia}/role", role="owner")
    assert (await member.get(MEMBERS)).status_code == 200
    await colleague.post(f"{MEMBERS}/{mia}/role", role="member")
    assert (await member.get(MEMBERS)).status_code == 403
    assert (await colleague.post(f"{MEMBERS}/{mia}/role", role="king")).status_code == 400


async def test_the_last_owner_stays_one(colleague: Somebody, project: str, member: Somebody) -> None:
    ben = (await ids(colleague))[colleague.email]
    for step, fields in (("role", {"role": "member"}), ("remove", {})):
        refused = await colleague.post(f"{MEMBERS}/{ben}/{step}", **fields)
        assert refused.status_code == 409
        assert "this is the last one" in message(refused)
    assert (await colleague.get(MEMBERS)).status_code == 200


async def test_who_gives_up_being_an_owner_is_led_where_he_may_be(
    colleague: Somebody, project: str, member: Somebody
) -> None:
    known = await ids(colleague)
    await colleague.post(f"{MEMBERS}/{known[member.email]}/role", role="owner")
    answer = await colleague.post(f"{MEMBERS}/{known[colleague.email]}/role", role="member")
    assert answer.headers["location"] == "/dashboard/labs/models"


async def test_removing_somebody(colleague: Somebody, project: str, member: Somebody) -> None:
    mia = (await ids(colleague))[member.email]
    asked = lines(await colleague.get(f"{MEMBERS}/{mia}/remove"))
    assert "Mia ( mia@example.org ) loses access to Labs immediately" in asked
    answer = await colleague.post(f"{MEMBERS}/{mia}/remove")
    assert answer.headers["location"] == MEMBERS
    assert (await member.get(f"{MEMBERS}/{mia}/remove")).status_code == 404
    assert (await colleague.get(f"{MEMBERS}/{mia}/remove")).status_code == 404


async def test_leaving(colleague: Somebody, project: str, member: Somebody) -> None:
    leave = re.search(r'href="(/dashboard/labs/members/[^"]+/remove)"', (await member.get("/dashboard/-/account")).text)
    assert leave
    assert "Leave this project?" in lines(await member.get(leave[1]))
    answer = await member.post(leave[1])
    assert answer.headers["location"] == "/dashboard"
    assert member.email not in await ids(colleague)


async def test_who_may_not(
    app: Application,
    browser: httpx.AsyncClient,
    stranger: Somebody,
    member: Somebody,
    colleague: Somebody,
    project: str,
) -> None:
    ben = (await ids(colleague))[colleague.email]
    assert (await browser.get(MEMBERS)).headers["location"] == f"/sign-in?next={MEMBERS}"
    for path in ("", f"/{ben}/remove"):
        assert (await stranger.get(MEMBERS + path)).status_code == 404
        assert (await member.get(MEMBERS + path)).status_code == 403
    for path, fields in (
        ("/invitations", {"role": "owner"}),
        (f"/{ben}/role", {"role": "member"}),
        (f"/{ben}/remove", {}),
    ):
        assert (await browser.post(MEMBERS + path, data=fields)).status_code == 303
        assert (await stranger.post(MEMBERS + path, **fields)).status_code == 404
        assert (await member.post(MEMBERS + path, **fields)).status_code == 403


async def test_somebody_of_another_project_is_no_member(stranger: Somebody, colleague: Somebody, project: str) -> None:
    await new_project(stranger, "elsewhere")
    eve = re.search(r"members/([0-9a-f-]{36})/remove", (await stranger.get("/dashboard/elsewhere/members")).text)
    assert eve
    assert (await colleague.get(f"{MEMBERS}/{eve[1]}/remove")).status_code == 404
    assert (await colleague.post(f"{MEMBERS}/{eve[1]}/role", role="owner")).status_code == 404
    assert (await colleague.get(f"{MEMBERS}/nobody/remove")).status_code == 400
