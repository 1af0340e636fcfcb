"""`Host` is believed where it names this machine, and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from modelshare.server.public_url import _outward_address, hostname, is_own, is_own_address, url_of


def asked(host: str, server: tuple[str, int | None] = ("127.0.0.1", 8000)) -> str:
    headers = [(b"host", host.encode("latin-1"))]
    scope = {"type": "http", "scheme": "http", "path": "/", "query_string": b"", "headers": headers, "server": server}
    return url_of(Request(scope))


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:9000", "[::1]:8000", "app.localhost", "127.1.2.3"])
def test_loopback_is_believed_with_whatever_port_leads_to_it(host: str) -> None:
    assert asked(host) == f"http://{host}"


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "198.51.100.7", "[2001:db8::7]:1", ""),
        *("127.0.0.1@evil", "evil/127.0.0.1", "127.0.0.1:8000/evil", "0.0.0.0", "127.0.0.1#.evil", "l\xf6calhost"),
        *("localhost:0", "local\thost", "[", "2130706433"),
    ],
)
def test_any_other_name_is_not(host: str) -> None:
    assert asked(host) == "http://127.0.0.1:8000"


@given(st.text(st.characters(max_codepoint=255)))
def test_no_name_of_another_gets_into_a_link(host: str) -> None:
    found = asked(host)
    assert found == "http://127.0.0.1:8000" or is_own(hostname(host), "127.0.0.1")


def test_where_every_address_is_listened_on_an_address_of_this_machine_counts() -> None:
    own = _outward_address()
    assert is_own_address(own)
    assert asked(f"{own}:8000", ("0.0.0.0", 8000)) == f"http://{own}:8000"
    assert asked("evil.example", ("0.0.0.0", 8000)) == f"http://{own}:8000"


def test_the_address_that_is_listened_on_counts() -> None:
    assert asked("models.test", ("models.test", None)) == "http://models.test"
    assert asked("evil.example", ("models.test", None)) == "http://models.test"
    assert asked("evil.example", ("::1", 80)) == "http://[::1]:80"
