"""Assertions on the API's responses."""

import httpx


def problem(response: httpx.Response) -> tuple[int, str, str | None]:
    """Status, type and code of an error response, after checking its format."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "code", "param"}
    assert body["error"]["message"]
    assert response.headers["x-request-id"]
    if response.status_code in {429, 503}:
        assert int(response.headers["retry-after"]) >= 1
    return response.status_code, body["error"]["type"], body["error"]["code"]


def message(response: httpx.Response) -> str:
    problem(response)
    return str(response.json()["error"]["message"])


ANONYMOUS = (401, "authentication_error", None)
