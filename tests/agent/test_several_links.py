"""One agent, several processes of the server: a link to each, one of which is sent to."""

import pytest
from aiohttp import web

from agent.peer import Peer, Recorder, linked
from agent.support import wait_until
from modelshare.agent import link as agent_link
from modelshare.wire.link import CloseCode, Desired, Hello, Ping, Released, Welcome, encode

pytestmark = pytest.mark.anyio


@pytest.fixture
def peer(peer: Peer) -> Peer:
    peer.running = dict.fromkeys("abc")
    return peer


async def all_linked(peer: Peer, recorder: Recorder) -> dict[str, web.WebSocketResponse]:
    """Waits until both sides know of all links."""
    await wait_until(lambda: all(peer.running.values()) and len(recorder.welcomes) >= peer.links)
    return {name: socket for name, socket in peer.running.items() if socket is not None}


async def want(socket: web.WebSocketResponse, revision: int, unconfirmed: tuple[str, ...] = ()) -> None:
    await socket.send_bytes(encode(Desired(revision, [], list(unconfirmed))))


async def test_each_process_gets_one_link_of_the_same_run(peer: Peer) -> None:
    async with linked(peer, recorder := Recorder()):
        await all_linked(peer, recorder)
        hellos = [await peer.expect(Hello) for _ in range(2)]
        assert len({hello.instance for hello in hellos}) == 1
        assert hellos[0].instance
        assert peer.links == 3


async def test_requests_are_answered_on_every_link(peer: Peer) -> None:
    def answers() -> list[bytes]:
        return sorted(frame.data for frame in peer.frames if hasattr(frame, "data"))

    async with linked(peer, recorder := Recorder()):
        for number, socket in enumerate((await all_linked(peer, recorder)).values()):
            peer.socket = socket
            await peer.ask(b"%d" % number, stream=1)
        await wait_until(lambda: answers() == [b"0", b"1", b"2"])


async def test_one_link_decides_what_is_desired_and_another_takes_over(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_link, "_SETTLE_SECONDS", 0.1)
    recorder = Recorder()
    async with linked(peer, recorder) as link:
        sockets = await all_linked(peer, recorder)
        main, second, third = (sockets[welcome.process] for welcome in recorder.welcomes)
        await want(second, 5)
        await want(third, 6, ("old",))
        await want(main, 1)
        await wait_until(lambda: recorder.received == [Desired(1, [])])

        peer.running[recorder.welcomes[0].process] = None
        await main.close(code=CloseCode.GOING_AWAY)
        await wait_until(lambda: recorder.received[1:] == [Desired(5, [])])
        assert link.post(Released("x"))
        await all_linked(peer, recorder)

        await second.close(code=CloseCode.GOING_AWAY)
        await wait_until(lambda: recorder.received[2:] == [Desired(6, [], ["old"])])


async def test_a_process_that_is_about_to_stop_is_no_longer_sent_to(peer: Peer) -> None:
    recorder = Recorder()
    async with linked(peer, recorder):
        sockets = await all_linked(peer, recorder)
        first, second = (welcome.process for welcome in recorder.welcomes[:2])
        await want(sockets[second], 2)
        await want(sockets[first], 1)
        await wait_until(lambda: len(recorder.received) == 1)
        staying = [name for name in sockets if name != first]
        await sockets[first].send_bytes(encode(Ping(staying)))
        await wait_until(lambda: recorder.received[1:] == [Desired(2, [])])
        assert not sockets[first].closed
        assert peer.links == 3, "it does not connect there again"


async def test_a_process_that_starts_gets_a_link(peer: Peer) -> None:
    async with linked(peer, recorder := Recorder()):
        sockets = await all_linked(peer, recorder)
        peer.running["d"] = None
        await sockets["a"].send_bytes(encode(Ping(list(peer.running))))
        await all_linked(peer, recorder)
        assert peer.links == 4


async def test_a_process_that_the_load_balancer_never_chooses_is_tried_less_and_less(peer: Peer) -> None:
    peer.running = {"a": None}
    async with linked(peer, recorder := Recorder()):
        sockets = await all_linked(peer, recorder)
        await sockets["a"].send_bytes(encode(Ping(["a", "b"])))
        await wait_until(lambda: peer.refusals >= 3)
        assert peer.links == 1


async def test_a_proxy_that_drops_the_header_leaves_one_link(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.peer.LINKED_HEADER", "X-Nothing")
    peer.running = {"a": None, "b": None}
    peer._choose = lambda: "a"  # type: ignore[method-assign]
    async with linked(peer, Recorder()) as link:
        await wait_until(lambda: len(link._links) == 2)
        assert not link._missing()


async def test_a_run_that_was_replaced_does_not_come_back_at_once(peer: Peer) -> None:
    async with linked(peer, recorder := Recorder()) as link:
        first, *others = (await all_linked(peer, recorder)).values()
        await first.close(code=CloseCode.REPLACED)
        await wait_until(lambda: link._may_link_again_at > 0)
        assert not link._missing()
        for socket in others:
            await socket.close(code=CloseCode.REPLACED)
        await wait_until(lambda: not link._links)
        assert peer.links == 3


async def test_a_server_that_names_no_processes_gets_one_link(peer: Peer) -> None:
    peer.running = {}
    recorder = Recorder()
    async with linked(peer, recorder):
        await wait_until(lambda: bool(recorder.welcomes))
        assert recorder.welcomes == [Welcome(peer.protocol, "agent_1", "box")]
        await peer.want()
        await wait_until(lambda: recorder.received == [Desired(1, [])])
    assert peer.links == 1
