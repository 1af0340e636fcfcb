"""Which changes have to take effect on every process, so that each confirms them. Pure."""

from typing import Final

ACTIONS: Final = frozenset(
    {
        "key.rotate",
        "key.revoke",
        "member.change_role",
        "member.remove",
        "model.share",
        "model.change_audience",
        "model.unshare",
        "model.recall",
        "model.delete",
        "endpoint.change",
        "endpoint.stop",
        "endpoint.delete",
        "agent.suspend",
        "agent.remove",
    }
)
"""Actions of the audit log. What they change is notified in the transaction that records them."""
