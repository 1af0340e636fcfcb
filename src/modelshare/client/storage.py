"""`/v1/storage`."""

from modelshare.client.call import Call, Paged, Resource, Transport, at, delete, get, listed, post, put, sent
from modelshare.wire.base import Page
from modelshare.wire.storage import MoveRequest, StorageMove, StorageSet
from modelshare.wire.storage import Storage as Described

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

    @sent
    def move(self, request: MoveRequest) -> Call[Page[StorageMove]]:
        """Moves versions to another storage, in the background; returns the moves that are needed. Safe to repeat."""
        return post(at(BASE, "moves"), Page[StorageMove], request, repeatable=True)

    @listed
    def moves(self) -> Call[Paged[StorageMove]]:
        """Moves between storages, newest first."""
        return get(at(BASE, "moves"), Page[StorageMove])

    @sent
    def cancel_move(self, move_id: str) -> Call[StorageMove]:
        """The version stays where it is. Raises ConflictError if the move is done."""
        return Call("DELETE", at(BASE, "moves", move_id), StorageMove.model_validate_json, repeatable=True)
