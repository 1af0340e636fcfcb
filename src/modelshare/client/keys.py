"""`/v1/keys`: the project's API keys."""

from modelshare.client.call import Call, Paged, Resource, Transport, at, delete, get, listed, post, sent
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.keys import Key, KeyCreate, KeyWithValue

BASE = "/v1/keys"


class Keys(Resource[Transport]):
    @listed
    def list(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[Key]]:
        return get(BASE, Page[Key], limit=limit)

    @sent
    def create(self, key: KeyCreate) -> Call[KeyWithValue]:
        """The answer holds the value, this once."""
        return post(BASE, KeyWithValue, key)

    @sent
    def rotate(self, key_id: str) -> Call[KeyWithValue]:
        """A new value; the old one works until `old_value_valid_until`."""
        return post(at(BASE, key_id, "rotate"), KeyWithValue)

    @sent
    def revoke(self, key_id: str) -> Call[None]:
        """Ends the key at once, on every process."""
        return delete(at(BASE, key_id))
