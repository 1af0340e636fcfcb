"""Rubbish input: a clear 400 on both databases, never a 500."""

from typing import Any

import pytest

from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio

REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v1/keys", {"json": {"name": "a\0b"}}),
    ("POST", "/v1/keys", {"content": b'{"name":"\\ud800"}'}),
    ("POST", "/v1/keys", {"content": b"\xff\xfe"}),
    ("POST", "/v1/keys", {"content": b"[" * 100_000}),
    ("POST", "/v1/keys", {"content": b'{"name": NaN}'}),
    ("POST", "/v1/keys", {"json": {"name": "x", "expires_in": 10**30}}),
    ("GET", "/v1/catalog/models?q=%00", {}),
    ("GET", "/v1/catalog/models?family=%00", {}),
    ("GET", "/v1/catalog/models?tag=%00", {}),
    ("GET", "/v1/catalog/models?q=%ff", {}),
    ("GET", "/v1/catalog/models?after=W251bGwsMV0", {}),
    ("GET", "/v1/catalog/models?sort=name&after=Wy0xLCJcdWQ4MDAiLDFd", {}),  # [-1,"\\ud800",1]
    ("GET", "/v1/endpoints/%00", {}),
    ("PATCH", "/v1/models/{model}", {"json": {"description": "a\0"}}),
    ("PATCH", "/v1/models/{model}", {"json": {"tags": ["a\0"]}}),
    ("POST", "/v1/models/{model}/versions/%00/promote", {}),
    ("POST", "/v1/endpoints", {"json": {"slug": "a", "model": "\0", "tier": "\0"}}),
    ("GET", "/v1/usage?from=0000-00-00", {}),
    ("GET", "/v1/audit?after=abc", {}),
    ("GET", "/v1/uploads/%00", {}),
    ("GET", "/v1/uploads?name=%00", {}),
    ("POST", "/v1/uploads", {"json": {"name": "x", "files": [{"path": "a\0.gguf", "size": 1}]}}),
    ("POST", "/v1/uploads", {"json": {"name": "x", "files": [{"path": "a.gguf", "size": 2**70}]}}),
    ("POST", "/v1/uploads", {"json": {"name": "x", "archive": {"filename": "\0.tar", "size": 1}}}),
    ("POST", "/v1/enroll", {"json": {"join_key": "\0", "name": "a"}}),
    ("POST", "/v1/join-keys", {"json": {"name": "a\0"}}),
    ("POST", "/v1/webhooks", {"json": {"url": "https://a\0.example"}}),
    ("POST", "/v1/webhooks", {"json": {"url": "https://[::1"}}),
    ("POST", "/v1/webhooks", {"json": {"url": "https://a.example:99999"}}),
    ("POST", "/v1/webhooks", {"json": {"url": "https://a.example", "events": ["\0"]}}),
    ("POST", "/v1/webhooks", {"json": {"url": "https://a.example", "events": "model.ready"}}),
    ("POST", "/v1/webhooks/%00/test", {}),
    ("PATCH", "/v1/webhooks/%ff", {"json": {"is_active": True}}),
    ("GET", "/v1/webhooks/%00/deliveries?state=lost", {}),
]


async def test_rubbish_is_refused_in_words(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    for method, path, body in REQUESTS:
        response = await owner.http.request(method, path.format(model=model), **body)
        assert response.status_code < 500, (method, path, body, response.text)
        if response.status_code >= 400:
            assert response.json()["error"]["message"], (method, path)
        if method != "GET":
            assert response.status_code in {400, 401, 404, 413}, (method, path, body, response.text)
