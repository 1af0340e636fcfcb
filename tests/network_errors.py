"""The error messages that a user sees when a call fails on a broken network."""

import json

import pytest

from middleboxes import http
from modelshare.cli.error_messages import describe
from modelshare.client import Client
from modelshare.client.errors import ModelshareError

VARIABLES = [
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("REQUEST_METHOD", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "MODELSHARE_URL"),
]


KEY = "ms_test_key"


EMPTY = json.dumps({"object": "list", "data": [], "has_more": False, "next_cursor": None})


OURS = http("200 OK", EMPTY, Content_Type="application/json")


def said(url: str) -> str:
    """The message that a user sees when a call fails."""
    with pytest.raises(ModelshareError) as waiting, Client(url, KEY) as client:
        next(client.models.list(), None)
    message = describe(waiting.value).message
    assert "bug" not in message
    assert "Traceback" not in message
    return message


def works(url: str) -> None:
    with Client(url, KEY) as client:
        assert next(client.models.list(), None) is None
