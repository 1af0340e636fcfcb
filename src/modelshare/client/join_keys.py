"""`/v1/join-keys`: keys with which agents enroll. The platform has its own, for shared agents."""

from modelshare.client.call import Call, Paged, Resource, Transport, at, delete, get, listed, post, sent
from modelshare.wire.agents import JoinKey, JoinKeyCreate, JoinKeyWithValue
from modelshare.wire.base import PAGE_LIMIT_MAX, Page


class JoinKeys(Resource[Transport]):
    @listed
    def list(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[JoinKey]]:
        return get(f"{self._prefix}/join-keys", Page[JoinKey], limit=limit)

    @sent
    def create(self, join_key: JoinKeyCreate) -> Call[JoinKeyWithValue]:
        """The response contains the key's value, which cannot be read again."""
        return post(f"{self._prefix}/join-keys", JoinKeyWithValue, join_key)

    @sent
    def revoke(self, join_key_id: str) -> Call[None]:
        """Prevents further agents from enrolling with it; enrolled agents are not affected."""
        return delete(at(self._prefix, "join-keys", join_key_id))
