"""The network between a client and its platform, with all that is wrong with it: each trouble is named, with a remedy.

The variables that decide, of httpx, `ssl`, `urllib` and ours: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY in
capital and small letters, REQUEST_METHOD, SSL_CERT_FILE, SSL_CERT_DIR, SSLKEYLOGFILE, MODELSHARE_URL.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from middleboxes import AUTHORITY, box, closed_port, forwarding, http
from modelshare.client import AsyncClient, Client
from modelshare.client.errors import ConfigError, ConnectError
from modelshare.client.network_errors import of_connection
from modelshare.client.route import route_to
from network_errors import KEY, OURS, said, works

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_variables")]

# --- The environment ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HTTP_PROXY", "htp://127.0.0.1:9", "HTTP_PROXY names 'htp://127.0.0.1:9', which is not a valid proxy address"),
        ("http_proxy", "http://", "http_proxy names"),
        ("ALL_PROXY", "socks4://127.0.0.1:9", "ALL_PROXY names 'socks4://127.0.0.1:9'"),
        ("ALL_PROXY", "socks4://127.0.0.1:9", "socks5://"),
        ("all_proxy", "http://127.0.0.1:99999", "all_proxy names"),
        ("HTTP_PROXY", "http://[::1", "HTTP_PROXY names"),
        ("HTTP_PROXY", "http://user:hidden@host:port", "HTTP_PROXY names 'host:port'"),
    ],
)
def test_a_proxy_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as waiting:
        Client("http://127.0.0.1:1", KEY)
    with pytest.raises(ConfigError) as awaiting:
        AsyncClient("http://127.0.0.1:1", KEY)
    assert words in waiting.value.message
    assert "unset it" in waiting.value.message
    assert "hidden" not in waiting.value.message
    assert awaiting.value.message == waiting.value.message


@pytest.mark.parametrize(
    "no_proxy", ["[::1],127.0.0.1", "127.0.0.0/8", "::1/128, 127.0.0.1:*", "*", ",,[::1]:80 127.0.0.1", "127.0.0.1"]
)
def test_any_no_proxy_is_read(monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    with box(OURS) as platform:
        if "127.0.0.1:*" in no_proxy:
            assert "HTTP_PROXY" in said(platform.url)
        else:
            works(platform.url)


@pytest.mark.parametrize(
    ("url", "no_proxy", "goes_past"),
    [
        ("http://a.example:8000", "example", True),
        ("http://a.example:8000", ".example", True),
        ("http://a.example:8000", "*.example", True),
        ("http://a.example:8000", "a.example:8000", True),
        ("http://a.example:8000", "a.example:80", False),
        ("http://a.example", "a.example:80", True),
        ("http://badexample", "example", False),
        ("http://[::1]:8000", "[::1]", True),
        ("http://[::1]:8000", "::1", True),
        ("http://[fd00::5]:8000", "fd00::/8", True),
        ("http://10.1.2.3", "10.0.0.0/8", True),
        ("http://11.1.2.3", "10.0.0.0/8", False),
        ("http://10.1.2.3", "10.1.2.3/99", False),
        ("http://10.1.2.3", "http://10.1.2.3", True),
        ("http://A.Example", "a.EXAMPLE", True),
        ("http://a.example", "", False),
    ],
)
def test_what_goes_past_a_proxy(url: str, no_proxy: str, goes_past: bool) -> None:
    route = route_to(url, {"ALL_PROXY": "http://proxy.example:3128", "NO_PROXY": no_proxy})
    assert (route.proxy is None) == goes_past


def test_small_letters_go_first_and_a_cgi_program_reads_no_header_as_a_proxy() -> None:
    environ = {"HTTP_PROXY": "http://large.example", "http_proxy": "small.example:8"}
    route = route_to("http://a.example", environ)
    assert route.proxy is not None
    assert (route.proxy.variable, route.proxy.url) == ("http_proxy", "http://small.example:8")
    assert route_to("https://a.example", environ).proxy is None
    assert route_to("http://a.example", {"HTTP_PROXY": "http://x.example", "REQUEST_METHOD": "GET"}).proxy is None


@pytest.mark.parametrize("kind", ["http", "socks5", "socks5h"])
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY", "all_proxy"])
async def test_proxies_that_work(monkeypatch: pytest.MonkeyPatch, kind: str, variable: str) -> None:
    with box(OURS) as platform, forwarding(socks=kind != "http") as proxy:
        monkeypatch.setenv(variable, f"{kind}://127.0.0.1:{proxy.port}")
        works(platform.url)
        async with AsyncClient(platform.url, KEY) as client:
            assert [each async for each in client.models.list()] == []
        assert len(proxy.requests) == 2


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    port = closed_port()
    monkeypatch.setenv("ALL_PROXY", f"{kind}://user:hidden@127.0.0.1:{port}")
    message = said("http://platform.example")
    assert message.startswith(
        f"Cannot reach the proxy {kind}://127.0.0.1:{port}, which ALL_PROXY names: connection refused"
    )
    assert "NO_PROXY=platform.example" in message
    assert "hidden" not in message


def test_a_proxy_without_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    message = said("https://platform.example")
    assert "proxy.invalid" in message
    assert "HTTPS_PROXY" in message or "at the moment" in message


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    with box(http("407 Proxy Authentication Required", Proxy_Authenticate="Basic realm=x")) as proxy:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.url)
        message = said(f"{scheme}://platform.example")
    assert "requires a user name and password" in message
    assert f"Set {scheme.upper()}_PROXY to http://USER:PASSWORD@127.0.0.1:{proxy.port}" in message


def test_a_proxy_that_does_not_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    with box(http("403 Forbidden")) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        message = said("https://platform.example")
    assert "which ALL_PROXY names, does not connect to platform.example:443 (403 Forbidden)" in message


def test_what_is_no_socks_proxy() -> None:
    """In a process of its own, since httpcore leaves the socket open then."""
    with box(http("400 Bad Request")) as proxy:
        variables = {"ALL_PROXY": f"socks5://127.0.0.1:{proxy.port}", "MODELSHARE_URL": "http://platform.example"}
        command = [sys.executable, "-m", "modelshare", "models", "list"]
        done = subprocess.run(
            command,
            env=os.environ | variables | {"MODELSHARE_API_KEY": KEY},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (3, "")
    assert "which ALL_PROXY names: it is not a SOCKS proxy" in done.stderr


@pytest.mark.parametrize(
    ("variable", "make", "words"),
    [
        ("SSL_CERT_FILE", lambda path: None, "cannot be read (No such file"),
        ("SSL_CERT_FILE", lambda path: path.mkdir(), "SSL_CERT_FILE names"),
        ("SSL_CERT_FILE", lambda path: path.write_text("garbage"), "contains no certificates"),
        ("SSL_CERT_FILE", lambda path: path.touch(), "contains no certificates"),
        ("SSL_CERT_DIR", lambda path: None, "which is not a folder"),
        ("SSL_CERT_DIR", lambda path: path.touch(), "which is not a folder"),
        ("SSLKEYLOGFILE", lambda path: path.mkdir(), "cannot be written"),
    ],
    ids=["missing", "folder", "garbage", "empty", "no-folder", "file", "keys"],
)
def test_certificates_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, make: Callable[[Path], object], words: str
) -> None:
    make(tmp_path / "named")
    monkeypatch.setenv(variable, str(tmp_path / "named"))
    for kind in (Client, AsyncClient):
        with pytest.raises(ConfigError) as error:
            kind("https://127.0.0.1:1", KEY)
        assert error.value.message.startswith(f"{variable} names {tmp_path / 'named'}")
        assert words in error.value.message
        assert "unset it" in error.value.message
    with box(OURS) as platform:
        works(platform.url)  # http needs none


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("htp://x", "MODELSHARE_URL: 'htp://x' is not a valid platform URL"),
        ("127.0.0.1:8000", "MODELSHARE_URL"),
        ("http://", "MODELSHARE_URL"),
        ("http://x:99999", "MODELSHARE_URL"),
        ("http://::1:8000", "MODELSHARE_URL"),
        ("http://[::1:8000", "MODELSHARE_URL"),
        ("http://user:pw@x", "MODELSHARE_URL"),
        ("http://x/?a=b", "MODELSHARE_URL"),
        ("http://a b", "MODELSHARE_URL"),
    ],
)
def test_the_variable_that_names_the_platform(monkeypatch: pytest.MonkeyPatch, url: str, words: str) -> None:
    monkeypatch.setenv("MODELSHARE_URL", url)
    with pytest.raises(ConfigError) as error:
        Client(api_key=KEY)
    assert words in error.value.message


# --- TLS ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("certificate", "trusted", "words"),
    [
        ("localhost", False, "not issued by an authority that this machine trusts"),
        ("localhost", False, "set SSL_CERT_FILE"),
        ("elsewhere", True, "is issued for another name"),
        ("expired", True, "has expired"),
    ],
)
def test_certificates_that_are_not_accepted(
    monkeypatch: pytest.MonkeyPatch, certificate: str, trusted: bool, words: str
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(AUTHORITY))
    with box(OURS, certificate=certificate) as platform:
        message = said(f"https://127.0.0.1:{platform.port}")
    assert message.startswith("The certificate of 127.0.0.1 ")
    assert words in message


def test_the_right_certificate_is_accepted_and_the_wrong_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(AUTHORITY))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    with box(OURS, certificate="localhost") as platform, forwarding(to=platform.port) as proxy:
        works(f"https://127.0.0.1:{platform.port}")
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        works(f"https://localhost:{platform.port}")
        assert proxy.requests[0].startswith(b"CONNECT localhost")
        monkeypatch.delenv("HTTPS_PROXY")
        monkeypatch.delenv("SSL_CERT_FILE")
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
        message = said(f"https://127.0.0.1:{platform.port}")
    assert f"is not in {tmp_path}, which SSL_CERT_DIR names" in message


def test_https_to_a_port_that_speaks_http(monkeypatch: pytest.MonkeyPatch) -> None:
    with box(OURS) as platform:
        message = said(f"https://127.0.0.1:{platform.port}")
        assert f"does not use TLS. Use the URL http://127.0.0.1:{platform.port}" in message
        monkeypatch.setenv("ALL_PROXY", f"https://127.0.0.1:{platform.port}")
        assert "The proxy that ALL_PROXY names does not use TLS" in said("http://platform.example")


def test_http_to_a_port_that_speaks_tls() -> None:
    with box(OURS, certificate="localhost") as platform:
        assert "https://" in said(platform.url)


# --- Names and addresses -----------------------------------------------------------------------------------------


def test_nothing_listens_at_the_url() -> None:
    port = closed_port()
    assert said(f"http://127.0.0.1:{port}") == (
        f"Cannot reach http://127.0.0.1:{port}: is `modelshare serve` running there?"
    )
    assert said(f"http://[::1]:{port}").startswith(("Cannot reach http://[::1]", "No route from this machine"))


@pytest.mark.parametrize("host", ["platform.invalid", "a..b", "x" * 64 + ".example"])
def test_a_host_that_is_not_there(host: str) -> None:
    message = said(f"http://{host}:8000")
    assert host in message
    assert "serve" not in message


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ECONNRESET, errno.EMFILE])
def test_a_connection_that_this_machine_does_not_make(number: int) -> None:
    """Only where nothing listens at the address is a server what is missing."""
    error = httpx.ConnectError(os.strerror(number))
    error.__cause__ = OSError(number, os.strerror(number))
    message = of_connection(route_to("http://platform.example", {}), error).message
    assert message.startswith(f"Cannot reach http://platform.example ({os.strerror(number)}). Check this machine's")


async def test_a_line_that_is_cut_before_it_is_secure() -> None:
    with box(lambda *_: None) as other:
        message = said(f"https://127.0.0.1:{other.port}")
        with pytest.raises(ConnectError) as awaiting:
            async with AsyncClient(f"https://127.0.0.1:{other.port}", KEY) as client:
                [each async for each in client.models.list()]
    assert "running there" not in message + awaiting.value.message


async def test_nothing_listens_at_any_address_of_a_host() -> None:
    url = f"http://localhost:{closed_port()}"
    with pytest.raises(ConnectError, match="running there"):
        async with AsyncClient(url, KEY) as client:
            [each async for each in client.models.list()]
    assert "running there" in said(url)


# --- Parts of a push ---------------------------------------------------------------------------------------------
