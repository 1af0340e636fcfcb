"""Where a page may lead on to."""

from urllib.parse import urljoin, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.web.page_auth import own_path

HERE = "https://models.example.org"
PIECES = st.sampled_from(
    ["/", "//", "\\", ":", "@", "?", "#", "%2f", "%5c", ".", "..", "evil.example", "https", "a", "\t", "\n", " "]
)


@given(st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=40))
def test_never_to_another_site(url: str) -> None:
    target = own_path(url, "/dashboard")
    # Browsers take `\` for `/`, and leave out tabs and line ends.
    as_browsers_read = target.replace("\\", "/").replace("\t", "").replace("\n", "").replace("\r", "").strip()
    assert urlsplit(urljoin(HERE, as_browsers_read)).netloc == "models.example.org"
    assert target.startswith("/")
    assert target.isprintable()


def test_paths_of_this_site_stay_as_they_are() -> None:
    for path in ("/", "/dashboard", "/models/catalog?q=a%20b&sort=name#x", "/join?token=msi_1"):
        assert own_path(path, "/dashboard") == path
