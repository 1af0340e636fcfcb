"""`/v1/keys`: the project's API keys."""

from modelshare.client.call import Call, Paged, Resource, Transport, at, delete, get, listed, patch, post, sent
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.keys import Key, KeyCreate, KeyPatch, KeyWithValue

BASE = "/v1/keys"


class Keys(Resource[Transport]):
    @listed
    def list(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[Key]]:
        return get(BASE, Page[Key], limit=limit)

    @sent
    def create(self, key: KeyCreate) -> Call[KeyWithValue]:
        """The response contains the key's value, which cannot be read again."""
        return post(BASE, KeyWithValue, key)

    @sent
    def update(self, key_id: str, changes: KeyPatch) -> Call[Key]:
        """Sets what the key may use; fields that `changes` leaves out stay as they are."""
        return patch(at(BASE, key_id), Key, changes)

    @sent
    def rotate(self, key_id: str) -> Call[KeyWithValue]:
        """Replaces the value; the old one works until `old_value_valid_until`."""
        return post(at(BASE, key_id, "rotate"), KeyWithValue)

    @sent
    def suspend(self, key_id: str) -> Call[Key]:
        """Every server process rejects it within a second, until it is resumed."""
        return post(at(BASE, key_id, "suspend"), Key, repeatable=True)

    @sent
    def resume(self, key_id: str) -> Call[Key]:
        return post(at(BASE, key_id, "resume"), Key, repeatable=True)

    @sent
    def revoke(self, key_id: str) -> Call[None]:
        """Revokes the key; every server process rejects it within a second."""
        return delete(at(BASE, key_id))
