"""`/v1/storage`."""

from modelshare.client.call import Call, Resource, Transport, at, delete, get, post, put, sent
from modelshare.wire.storage import Storage as Described
from modelshare.wire.storage import StorageSet

BASE = "/v1/storage"


class Storage(Resource[Transport]):
    @sent
    def get(self) -> Call[Described]:
        """Where the project's new pushes are stored. Never contains keys."""
        return get(BASE, Described)

    @sent
    def set(self, storage: StorageSet) -> Call[Described]:
        """Stores new pushes in a bucket of the project's own. Raises InvalidRequestError if its check fails."""
        return put(BASE, Described, storage)

    @sent
    def unset(self) -> Call[None]:
        """Stores new pushes on the platform again. Models in the bucket stay there."""
        return delete(BASE)

    @sent
    def check(self) -> Call[Described]:
        """Checks the bucket again; `checks` has the result."""
        return post(at(BASE, "check"), Described)
