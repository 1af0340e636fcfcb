"""Every table of the schema, for migrations and tests."""

from sqlalchemy import MetaData

from modelshare.server import jobs
from modelshare.server.accounts import tables as accounts
from modelshare.server.audit import tables as audit
from modelshare.server.audit.webhooks import tables as webhooks
from modelshare.server.db import Table
from modelshare.server.endpoints import tables as endpoints
from modelshare.server.fleet import tables as fleet
from modelshare.server.registry import tables as registry
from modelshare.server.sharing import tables as sharing

MODULES = (accounts, audit, endpoints, fleet, jobs, registry, sharing, webhooks)
metadata: MetaData = Table.metadata
