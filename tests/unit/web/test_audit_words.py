"""The audit log in words."""

import re
from pathlib import Path

import pytest

import modelshare
from modelshare.server.audit.events import OF_ACTIONS
from modelshare.server.audit.propagation.rules import ACTIONS
from modelshare.server.web import audit_words as words
from modelshare.wire.usage import AuditEntry, Confirmation

SERVER = Path(modelshare.__file__).parent / "server"


def entry(**fields: object) -> AuditEntry:
    plain = {"id": "1", "at": 0, "actor": "system", "action": "key.revoke", "target": "key:1", "outcome": "done"}
    return AuditEntry.model_validate({**plain, "reason": None, "details": {}, **fields})


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("key.revoke", "Revoke key"),
        ("join_key.create", "Create join key"),
        ("model.share", "Share model"),
        ("model.change_role", "Catalog role changed"),
        ("something.new_here", "New here something"),
    ],
)
def test_actions(action: str, said: str) -> None:
    assert words.action(action) == said


def test_nothing_is_said_of_an_action_that_there_is_not() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in SERVER.rglob("*.py") if path.name != "audit_words.py")
    assert [action for action in words._SAID_OTHERWISE if f'"{action}"' not in source] == []


def test_details() -> None:
    told = entry(
        details={"name": "k", "deadline": 0, "events": ["a", "b"], "is_admin": False, "link": None, "gone": []}
    )
    assert words.details(told, said={"k"}) == [
        ("deadline", "1970-01-01 00:00 UTC"),
        ("events", "a, b"),
        ("is admin", "no"),
    ]
    assert words.called(told) == "k"
    assert words.called(entry()) is None


def test_everywhere() -> None:
    some = [Confirmation(process="p-1", after_ms=3), Confirmation(process="p-2", after_ms=84)]
    assert words.everywhere_ms(entry(confirmations=some)) == 84
    assert words.everywhere_ms(entry(confirmations=some, pending=["p-3"])) is None
    assert words.everywhere_ms(entry()) is None


def test_ids_are_shortened() -> None:
    assert words.short("018f0000-0000-7000-8000-00000000abcd") == "018f0000…abcd"
    assert re.fullmatch(r"proj_\w+", words.short("proj_1")) is not None


def test_a_log_can_be_narrowed_to_whatever_is_written_to_it() -> None:
    assert {name.partition(".")[0] for name in {*OF_ACTIONS, *ACTIONS, *words._SAID_OTHERWISE}} <= set(words.SUBJECTS)
    assert words.choices(None)[:2] == [("", "All actions"), ("model", "Models")]
    assert ("key.revoke", "Revoke key") in words.choices("key.revoke")
    assert words.choices("key") == words.choices(None)
