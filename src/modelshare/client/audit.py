"""`/v1/audit`: who did what, including refused attempts."""

from modelshare.client.call import Call, Paged, Resource, Transport, get, listed
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.usage import AuditEntry, AuditOutcome


class Audit(Resource[Transport]):
    @listed
    def list(
        self,
        *,
        action: str | None = None,
        actor: str | None = None,
        target: str | None = None,
        outcome: AuditOutcome | None = None,
        limit: int = PAGE_LIMIT_MAX,
    ) -> Call[Paged[AuditEntry]]:
        """Newest first. `action` is one such as `model.share`, or a subject such as `model` for all its actions.

        `actor` and `target` have the form used in entries, such as `key:<id>` and `model:<uuid>`.
        """
        return get(
            "/v1/audit", Page[AuditEntry], action=action, actor=actor, target=target, outcome=outcome, limit=limit
        )
