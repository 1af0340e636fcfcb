"""`/v1/usage`: requests and tokens by day, endpoint, model and key."""

from modelshare.client.call import Call, Paged, Resource, Transport, get, listed
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.usage import UsageRow


class Usage(Resource[Transport]):
    @listed
    def list(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[UsageRow]]:
        return get("/v1/usage", Page[UsageRow], limit=limit)
