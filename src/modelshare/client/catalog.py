"""`/v1/catalog`: the public catalog; with a key also the models that are shared with its project."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic_core import from_json

from modelshare.client.call import Call, Paged, Resource, Transport, at, get, listed, post, sent
from modelshare.wire.base import PAGE_LIMIT_DEFAULT
from modelshare.wire.models import BomFormat, CatalogModel, CatalogModelDetail, CatalogPage, CatalogRole
from modelshare.wire.sharing import Claim

BASE = "/v1/catalog/models"
Sort = Literal["relevance", "recent", "deployments", "parameters", "name"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogFilter:
    """Conditions of a search; None means any."""

    q: str | None = None
    family: str | None = None
    tag: str | None = None
    license: str | None = None
    architecture: str | None = None
    format: str | None = None
    role: CatalogRole | None = None
    min_parameters: int | None = None
    max_parameters: int | None = None
    min_context: int | None = None
    max_context: int | None = None
    sort: Sort | None = None


EVERYTHING = CatalogFilter()


class Catalog(Resource[Transport]):
    @listed
    def list(self, where: CatalogFilter = EVERYTHING, *, limit: int = PAGE_LIMIT_DEFAULT) -> Call[Paged[CatalogModel]]:
        """All models that match; `limit` is the page size of one request."""
        return get(BASE, CatalogPage, limit=limit, **asdict(where))

    @sent
    def page(
        self,
        where: CatalogFilter = EVERYTHING,
        *,
        limit: int = PAGE_LIMIT_DEFAULT,
        after: str | None = None,
        facets: bool = False,
    ) -> Call[CatalogPage]:
        """One page, with counts per value of each facet if requested."""
        return get(BASE, CatalogPage, limit=limit, after=after, facets="true" if facets else None, **asdict(where))

    @sent
    def get(self, model_id: str) -> Call[CatalogModelDetail]:
        """The model's card, facts, manifest and digest. `model_id` is an id or `owner/name`."""
        return get(at(BASE, model_id), CatalogModelDetail)

    @sent
    def bom(self, model_id: str, *, format: BomFormat = BomFormat.CYCLONEDX) -> Call[dict[str, Any]]:  # noqa: A002 - the contract's name
        """What the model is made of: a CycloneDX document, or the fields of `wire.models.AnnexXii`."""
        return Call("GET", at(BASE, model_id, "bom"), from_json, {"format": format}, repeatable=True)

    @sent
    def claim(self, token: str) -> Call[CatalogModelDetail]:
        """Claims a link (`msl_...`): from now on the project sees the model in its catalog."""
        return post("/v1/catalog/claims", CatalogModelDetail, Claim(token=token), repeatable=True)
