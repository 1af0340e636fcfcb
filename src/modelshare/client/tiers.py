"""`/v1/tiers`: service tiers with their limits and prices. Needs no key."""

from modelshare.client.call import Call, Paged, Resource, Transport, get, listed
from modelshare.wire.base import Page
from modelshare.wire.tiers import Tier


class Tiers(Resource[Transport]):
    @listed
    def list(self) -> Call[Paged[Tier]]:
        return get("/v1/tiers", Page[Tier])
