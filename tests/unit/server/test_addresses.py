"""Where requests come from."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.addresses import counted_as, forwarded

HOSTS = st.integers(0, (1 << 64) - 1)
PORTS = st.none() | st.integers(0, 65_535)


@given(st.ip_addresses(), PORTS, st.lists(st.text(), max_size=2))
def test_the_last_one_without_its_port(ip: IPv4Address | IPv6Address, port: int | None, before: list[str]) -> None:
    host = f"[{ip}]" if port is not None and ip.version == 6 else str(ip)
    entry = host if port is None else f"{host}:{port}"
    assert forwarded([", ".join([*before, entry])]) == str(ip)
    assert forwarded([*before, f" {entry} "]) == str(ip), "a proxy may add a header of its own"


@pytest.mark.parametrize(
    ("headers", "address"),
    [([], ""), ([""], ""), (["10.0.0.1,"], ""), (["[2001:db8::1]"], "2001:db8::1"), (["unknown"], "unknown")],
)
def test_other_headers(headers: list[str], address: str) -> None:
    assert forwarded(headers) == address


@given(st.integers(0, (1 << 64) - 1), HOSTS, HOSTS)
def test_a_connections_ipv6_addresses_count_as_one(site: int, one: int, other: int) -> None:
    first, second = (IPv6Address(site << 64 | host) for host in (one, other))
    if first.ipv4_mapped is None and second.ipv4_mapped is None:
        assert counted_as(str(first)) == counted_as(second.exploded)
    assert counted_as(str(first)) != counted_as(str(IPv6Address((site ^ 1) << 64 | other)))


@given(st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_ipv4_addresses_count_by_themselves(one: IPv4Address, other: IPv4Address) -> None:
    assert (counted_as(str(one)) == counted_as(f"::ffff:{other}")) == (one == other)


@pytest.mark.parametrize("address", ["", "testclient", "unix:"])
def test_what_is_no_address_counts_as_it_is(address: str) -> None:
    assert counted_as(address) == address
