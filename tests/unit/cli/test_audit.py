"""What `modelshare audit` says of confirmations."""

import pytest

from modelshare.cli.audit import confirmed
from modelshare.wire.usage import AuditEntry, AuditOutcome, Confirmation


@pytest.mark.parametrize(
    ("after_ms", "pending", "said"),
    [
        ([], [], ""),
        ([4], [], "1 process, 4 ms"),
        ([4, 12, 7], [], "3 processes, 12 ms"),
        ([4, 12], ["p-3"], "2 of 3 processes, 12 ms"),
        ([], ["p-3"], "0 of 1 process"),
    ],
)
def test_how_many_and_how_long(after_ms: list[int], pending: list[str], said: str) -> None:
    entry = AuditEntry(
        id="1",
        at=0,
        actor="system",
        action="key.revoke",
        target="key:1",
        outcome=AuditOutcome.DONE,
        reason=None,
        details={},
        confirmations=[Confirmation(process=f"p-{number}", after_ms=ms) for number, ms in enumerate(after_ms)],
        pending=pending,
    )
    assert confirmed(entry) == said
