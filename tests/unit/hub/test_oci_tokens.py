from modelshare.server.hub.access import Credential
from modelshare.server.hub.oci.tokens import Token, read, signed

SECRET = b"0" * 32
TOKEN = Token(Credential("ab" * 32, is_endpoint=False), ("acme/tiny",), expires_at=100)


def test_a_token_is_read_until_it_expires() -> None:
    text = signed(TOKEN, SECRET)
    assert read(text, SECRET, 99) == TOKEN
    assert read(text, SECRET, 100) is None


def test_only_what_was_signed_here_is_a_token() -> None:
    text = signed(TOKEN, SECRET)
    for other in ("", "x", "ms_acme_x", f"{text}x", text[1:], f".{text}", text.upper(), text.partition(".")[0]):
        assert read(other, SECRET, 1) is None
    assert read(text, b"1" * 32, 1) is None
