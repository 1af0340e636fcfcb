"""Events for webhooks, and the actions that cause them. Pure."""

from collections.abc import Mapping
from typing import Any, Final

OF_ACTIONS: Final[Mapping[str, str]] = {
    "model.ready": "model.ready",
    "model.failed": "model.failed",
    "model.moved": "model.moved",
    "model.move_failed": "model.move_failed",
    "model.share": "model.shared",
    "model.unshare": "model.unshared",
    "model.change_audience": "model.audience_changed",
    "model.claim": "model.claimed",
    "model.invite": "model.invited",
    "model.change_role": "model.role_changed",
    "model.promote": "model.promoted",
    "model.rollback": "model.rolled_back",
    "model.delete_version": "model.version_deleted",
    "model.delete": "model.deleted",
    "model.recall": "model.recalled",
    "model.recall_cancel": "model.recall_cancelled",
    "endpoint.create": "endpoint.created",
    "endpoint.change": "endpoint.changed",
    "endpoint.delete": "endpoint.deleted",
    "endpoint.recall": "endpoint.recalled",
    "endpoint.recall_cancel": "endpoint.recall_cancelled",
    "endpoint.stop": "endpoint.stopped",
    "agent.enroll": "agent.enrolled",
    "agent.suspend": "agent.suspended",
    "agent.resume": "agent.resumed",
    "agent.remove": "agent.removed",
    "agent.delete_weights": "agent.weights_deleted",
    "budget.warn": "budget.warning",
    "budget.exhaust": "budget.exhausted",
}
"""Events by the action of their audit entry."""
ENDPOINT_STATUS: Final = "endpoint.status_changed"
AGENT_CONNECTED: Final = "agent.connected"
AGENT_DISCONNECTED: Final = "agent.disconnected"
TYPES: Final = tuple(sorted({*OF_ACTIONS.values(), ENDPOINT_STATUS, AGENT_CONNECTED, AGENT_DISCONNECTED}))
"""All event types."""


def data_of(target: str, reason: str | None, details: Mapping[str, Any]) -> dict[str, Any]:
    """An event's data: `{"model": "<uuid>", ...}` for the target `model:<uuid>`."""
    subject, _, id_ = target.partition(":")
    return {subject: id_, **({"reason": reason} if reason else {}), **details}
