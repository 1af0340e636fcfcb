"""Which addresses are public, as properties."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.wire.public_addresses import is_public

PRIVATE_4 = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
    "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
]  # fmt: skip
PRIVATE_6 = [
    "::/8",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "2001::/32",
    "2001:db8::/32",
    "2002::/16",
    "64:ff9b:1::/48",
]
v4 = st.ip_addresses(v=4)
v6 = st.ip_addresses(v=6)
private_4 = st.sampled_from(PRIVATE_4).flatmap(lambda network: st.ip_addresses(network=network))
private_6 = st.sampled_from(PRIVATE_6).flatmap(lambda network: st.ip_addresses(network=network))
EMBEDDED = [IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96")]
"""IPv4 addresses written as IPv6: what stands there is reached."""


@given(private_4)
def test_no_private_ipv4(address: IPv4Address) -> None:
    assert not is_public(str(address))


@given(private_6.filter(lambda address: not any(address in network for network in EMBEDDED)))
def test_no_private_ipv6(address: IPv6Address) -> None:
    assert not is_public(str(address))


@given(v4)
def test_what_the_standard_library_calls_private_is(address: IPv4Address) -> None:
    if is_public(str(address)):
        assert address.is_global
        assert not address.is_multicast


@given(v6)
def test_what_the_standard_library_calls_private_is_in_ipv6(address: IPv6Address) -> None:
    if is_public(str(address)) and not any(address in network for network in EMBEDDED):
        assert address.is_global
        assert not address.is_multicast


@given(v4 | private_4, st.sampled_from(EMBEDDED))
def test_an_ipv4_address_in_an_ipv6_one_is_as_public_as_itself(address: IPv4Address, network: IPv6Network) -> None:
    inside = IPv6Address(int(network.network_address) | int(address))
    assert is_public(str(inside)) == is_public(str(address))


@given(v4)
def test_tunnels_are_not_public_whatever_is_in_them(address: IPv4Address) -> None:
    for prefix, shift in (("2002::", 80), ("2001::", 64), ("2001::", 0)):
        assert not is_public(str(IPv6Address(int(IPv6Address(prefix)) | int(address) << shift)))


@given(st.text())
def test_what_is_no_address_is_not_public(text: str) -> None:
    try:
        IPv4Address(text)
    except ValueError:
        assert not is_public(text) or ":" in text


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a01:4f8::1", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd20:ce::254",
     "255.255.255.255", "fe80::1%eth0", "localhost", "", "1.2.3", "2130706433"],
)  # fmt: skip
def test_not_public(address: str) -> None:
    """The clouds' metadata among them."""
    assert not is_public(address)


def test_the_edges_of_a_network() -> None:
    network = IPv4Network("172.16.0.0/12")
    assert is_public(str(network.network_address - 1))
    assert is_public(str(network.broadcast_address + 1))
