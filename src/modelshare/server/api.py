"""The routes of the API and the pages, as one FastAPI application."""

import functools
from typing import Final

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline

from modelshare import __version__
from modelshare.server import health, model_paths
from modelshare.server.accounts import routes as accounts_routes
from modelshare.server.accounts import service as accounts
from modelshare.server.audit import routes as audit_routes
from modelshare.server.audit.given_up import routes as given_up_routes
from modelshare.server.audit.propagation import routes as confirming_routes
from modelshare.server.audit.webhooks import routes as webhooks_routes
from modelshare.server.endpoints import routes as endpoints_routes
from modelshare.server.errors import ApiError, install_handlers, valid_json
from modelshare.server.fleet import routes as fleet_routes
from modelshare.server.http import get_platform
from modelshare.server.hub import routes as hub_routes
from modelshare.server.openapi import ERRORS, complete
from modelshare.server.registry.imports import routes as imports_routes
from modelshare.server.registry.in_place import routes as in_place_routes
from modelshare.server.registry.signatures import routes as signatures_routes
from modelshare.server.registry.storages import routes as storages_routes
from modelshare.server.registry.uploads import routes as uploads_routes
from modelshare.server.router import routes as router_routes
from modelshare.server.sharing import routes as sharing_routes
from modelshare.server.web import routers as pages
from modelshare.server.web.pages import error_page

_ROUTERS: Final = (
    sharing_routes.public,
    in_place_routes.router,
    sharing_routes.router,
    uploads_routes.router,
    uploads_routes.versions,
    imports_routes.router,
    signatures_routes.router,
    storages_routes.router,
    storages_routes.of_models,
    endpoints_routes.router,
    fleet_routes.public,
    fleet_routes.router,
    hub_routes.router,
    router_routes.public,
    router_routes.router,
    accounts_routes.router,
    audit_routes.router,
    confirming_routes.router,
    given_up_routes.router,
    webhooks_routes.router,
    health.router,
    *pages.ROUTERS,
)
BELOW_MODELS: Final = model_paths.below_models(
    route.path for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute)
)


@functools.cache
def api() -> FastAPI:
    """Routes, pages and errors. Built once per process, since it takes a tenth of a second; requests carry the
    platform."""
    built = FastAPIOffline(  # /docs without requests to other sites
        title="modelshare",
        version=__version__,
        summary="Publish AI models into a public catalog without surrendering the weights.",
        responses=ERRORS,
        dependencies=[Depends(valid_json)],
        redirect_slashes=False,  # it knows neither the path's project nor the platform's public URL
        servers=[
            {"url": "/", "description": "The key decides the project"},
            {
                "url": "/{project_id}",
                "description": "The project is named",
                "variables": {"project_id": {"default": "proj_000000000000"}},
            },
        ],
    )
    install_handlers(built, error_page, _record_refusal)
    complete(built)
    for router in _ROUTERS:
        built.include_router(router)
    return built


async def _record_refusal(request: Request, error: ApiError) -> None:
    platform = get_platform(request)
    await accounts.record_refusal(platform.database, request.state.caller, error, now=platform.now())
