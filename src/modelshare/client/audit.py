"""`/v1/audit`: who did what, refusals included."""

from modelshare.client.call import Call, Paged, Resource, Transport, get, listed
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.usage import AuditEntry


class Audit(Resource[Transport]):
    @listed
    def list(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[AuditEntry]]:
        """Newest first."""
        return get("/v1/audit", Page[AuditEntry], limit=limit)
