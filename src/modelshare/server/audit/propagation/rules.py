"""Changes that must take effect on every process, so that each process confirms them. Pure."""

from typing import Final

ACTIONS: Final = frozenset(
    {
        "key.rotate",
        "key.revoke",
        "key.suspend",
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
"""Actions in the audit log. Their transactions also notify of what they change."""
