"""`/v1/join-keys`: what an agent enrols with. The platform has its own, for shared agents."""

from modelshare.client.call import Call, Paged, Resource, Transport, at, delete, get, listed, post, sent
from modelshare.wire.agents import JoinKey, JoinKeyCreate, JoinKeyWithValue
from modelshare.wire.base import PAGE_LIMIT_MAX, Page


class JoinKeys(Resource[Transport]):
    @listed
    def list(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[JoinKey]]:
        return get(f"{self._prefix}/join-keys", Page[JoinKey], limit=limit)

    @sent
    def create(self, join_key: JoinKeyCreate) -> Call[JoinKeyWithValue]:
        """The answer holds the value, this once."""
        return post(f"{self._prefix}/join-keys", JoinKeyWithValue, join_key)

    @sent
    def revoke(self, join_key_id: str) -> Call[None]:
        """Nobody enrols with it any more; agents that did stay."""
        return delete(at(self._prefix, "join-keys", join_key_id))
