"""`/v1/endpoints`: a model on a tier, with a base URL for OpenAI clients."""

from modelshare.client.call import Call, Paged, Resource, Transport, at, delete, get, listed, patch, post, sent
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.endpoints import Endpoint, EndpointCreate, EndpointPatch, EndpointToken, Explanation

BASE = "/v1/endpoints"


class Endpoints(Resource[Transport]):
    @listed
    def list(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[Endpoint]]:
        return get(BASE, Page[Endpoint], limit=limit)

    @sent
    def get(self, slug: str) -> Call[Endpoint]:
        return get(at(BASE, slug), Endpoint)

    @sent
    def create(self, endpoint: EndpointCreate) -> Call[Endpoint]:
        """Raises PermissionDeniedError with the reasons given by `explain`, or ConflictError if the slug is taken."""
        return post(BASE, Endpoint, endpoint)

    @sent
    def explain(self, endpoint: EndpointCreate) -> Call[Explanation]:
        """Whether `create` would succeed; if not, which rules prevent it and how to satisfy them."""
        return post(at(BASE, "explain"), Explanation, endpoint, repeatable=True)

    @sent
    def update(self, slug: str, changes: EndpointPatch) -> Call[Endpoint]:
        return patch(at(BASE, slug), Endpoint, changes)

    @sent
    def activate(self, slug: str) -> Call[Endpoint]:
        """Activates the endpoint again. The same rules apply as for `create`."""
        return patch(at(BASE, slug), Endpoint, EndpointPatch(is_active=True))

    @sent
    def deactivate(self, slug: str) -> Call[Endpoint]:
        return patch(at(BASE, slug), Endpoint, EndpointPatch(is_active=False))

    @sent
    def delete(self, slug: str) -> Call[None]:
        return delete(at(BASE, slug))

    @sent
    def make_hf_token(self, slug: str) -> Call[EndpointToken]:
        """A new token for Hugging Face clients, shown this once; an earlier one of the endpoint ends."""
        return post(at(BASE, slug, "hf-token"), EndpointToken)

    @sent
    def revoke_hf_token(self, slug: str) -> Call[None]:
        return delete(at(BASE, slug, "hf-token"))
