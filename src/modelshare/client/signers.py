"""`/v1/signers`: the public keys whose signatures count for the project's models."""

from modelshare.client.call import Call, Paged, Resource, Transport, at, delete, get, listed, post, sent
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.signers import Signer, SignerAdd

BASE = "/v1/signers"


class Signers(Resource[Transport]):
    @listed
    def list(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[Signer]]:
        """Newest first."""
        return get(BASE, Page[Signer], limit=limit)

    @sent
    def add(self, signer: SignerAdd) -> Call[Signer]:
        """Registers a public key: versions that are signed with it become `valid`."""
        return post(BASE, Signer, signer)

    @sent
    def remove(self, signer: str) -> Call[None]:
        """By ID or name. Versions that are signed with its key become `unknown_signer`."""
        return delete(at(BASE, signer))
