"""Clients of the version before understand this server, and this version's clients the server before."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from api_contract import Contract, current
from conftest import Tenant
from modelshare.wire.base import Request, Response

BEFORE: Contract = json.loads((Path(__file__).parents[1] / "api_before.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def now() -> Contract:
    return current()


def test_every_route_is_still_there(now: Contract) -> None:
    assert BEFORE.keys() - now.keys() == set()


def test_a_request_of_the_version_before_is_accepted(now: Contract) -> None:
    """Whatever it may name is still known, and nothing more is required."""
    wrong = []
    for route, before in BEFORE.items():
        asked = now[route]["asked"]
        wrong += [f"{route} no longer takes {name}" for name in before["asked"].keys() - asked.keys()]
        wrong += [
            f"{route} now requires {name}"
            for name, required in asked.items()
            if required and not before["asked"].get(name, False) and _is_always_asked(name, before["asked"])
        ]
    assert wrong == []


def _is_always_asked(name: str, before: dict[str, bool]) -> bool:
    """False for a part of an object that is new itself."""
    outer = name.rpartition(".")[0].removesuffix("[]")
    return not outer.startswith("body ") or outer in before


def test_an_answer_has_what_the_version_before_reads(now: Contract) -> None:
    wrong = []
    for route, before in BEFORE.items():
        answered = now[route]["answered"]
        for name, types in before["answered"].items():
            if name not in answered:
                wrong.append(f"{route} no longer answers {name}")
            elif "any" not in types and set(answered[name]) - set(types) - {"any"}:
                wrong.append(f"{route} answers {name} as {answered[name]}, and it was {types}")
    assert wrong == []


def models_of(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for each in base.__subclasses__():
        if each.__module__.startswith("modelshare."):
            yield each
        yield from models_of(each)


def test_fields_of_a_newer_version_are_ignored_in_answers_and_refused_in_requests() -> None:
    answers = {each.__name__ for each in models_of(Response) if each.model_config.get("extra") != "ignore"}
    assert answers == set()
    loose = {each.__name__ for each in models_of(Request) if each.model_config.get("extra") != "forbid"}
    assert loose == {"AuditFilter", "CatalogQuery"}, "forms of pages send more than these read"


@pytest.mark.anyio
async def test_a_field_that_the_server_does_not_know_is_named(owner: Tenant) -> None:
    refused = await owner.http.post("/v1/keys", json={"name": "x", "colour_of_a_newer_version": 1})
    assert refused.status_code == 400
    assert "colour_of_a_newer_version" in refused.json()["error"]["message"]
