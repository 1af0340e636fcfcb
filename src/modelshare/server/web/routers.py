"""The routes of all pages, for `app.py`."""

from typing import Final

from fastapi import APIRouter

from modelshare.server.web import account as account_pages
from modelshare.server.web import agents as agents_pages
from modelshare.server.web import audit as audit_pages
from modelshare.server.web import endpoints as endpoints_pages
from modelshare.server.web import imports as import_pages
from modelshare.server.web import keys as key_pages
from modelshare.server.web import limits as limit_pages
from modelshare.server.web import members as member_pages
from modelshare.server.web import playground as playground_pages
from modelshare.server.web import signers as signer_pages
from modelshare.server.web import static_files
from modelshare.server.web import storage as storage_pages
from modelshare.server.web import usage as usage_pages
from modelshare.server.web import webhooks as webhook_pages
from modelshare.server.web.catalog import routes as catalog_pages
from modelshare.server.web.install import routes as install
from modelshare.server.web.models import listing as model_list_pages
from modelshare.server.web.models import page as model_pages
from modelshare.server.web.models import sharing as model_sharing_pages
from modelshare.server.web.platform import routes as platform_pages

ROUTERS: Final[tuple[APIRouter, ...]] = (
    static_files.router,
    install.router,
    account_pages.router,
    key_pages.router,
    signer_pages.router,
    member_pages.router,
    endpoints_pages.router,
    agents_pages.router,
    playground_pages.router,
    usage_pages.router,
    limit_pages.router,
    catalog_pages.router,
    import_pages.router,
    model_list_pages.router,
    model_pages.router,
    model_sharing_pages.router,
    storage_pages.router,
    webhook_pages.router,
    audit_pages.router,
    platform_pages.router,
)
