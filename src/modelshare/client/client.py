"""The two clients: the same resources over a blocking or an asyncio transport."""

import os
from types import TracebackType
from typing import Generic, Self

import httpx

from modelshare.client import config
from modelshare.client.agents import Agents
from modelshare.client.audit import Audit
from modelshare.client.call import AsyncTransport, SyncTransport, Transport
from modelshare.client.catalog import Catalog
from modelshare.client.endpoints import Endpoints
from modelshare.client.imports import Imports
from modelshare.client.join_keys import JoinKeys
from modelshare.client.keys import Keys
from modelshare.client.models import Models
from modelshare.client.platform import Platform
from modelshare.client.project import OwnProject
from modelshare.client.signers import Signers
from modelshare.client.storage import Storage
from modelshare.client.tiers import Tiers
from modelshare.client.transport import AsyncHttpTransport, HttpTransport
from modelshare.client.uploads import Uploads
from modelshare.client.usage import Usage
from modelshare.client.webhooks import Webhooks


class _Resources(Generic[Transport]):
    def __init__(self, transport: Transport) -> None:
        self.models: Models[Transport] = Models(transport)
        self.uploads: Uploads[Transport] = Uploads(transport)
        self.imports: Imports[Transport] = Imports(transport)
        self.endpoints: Endpoints[Transport] = Endpoints(transport)
        self.catalog: Catalog[Transport] = Catalog(transport)
        self.tiers: Tiers[Transport] = Tiers(transport)
        self.keys: Keys[Transport] = Keys(transport)
        self.project: OwnProject[Transport] = OwnProject(transport)
        self.signers: Signers[Transport] = Signers(transport)
        self.join_keys: JoinKeys[Transport] = JoinKeys(transport)
        self.agents: Agents[Transport] = Agents(transport)
        self.usage: Usage[Transport] = Usage(transport)
        self.audit: Audit[Transport] = Audit(transport)
        self.storage: Storage[Transport] = Storage(transport)
        self.webhooks: Webhooks[Transport] = Webhooks(transport)
        self.platform: Platform[Transport] = Platform(transport)


class Client(_Resources[SyncTransport]):
    """Blocking client of a platform. Close it, or use it in a `with` block. Safe to use from several threads.

    `url` and `api_key` default to MODELSHARE_URL and MODELSHARE_API_KEY, then to the values stored by `modelshare
    login`. Raises ConfigError if they are invalid; every method may raise a subclass of ModelshareError.
    """

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.config = config.load(os.environ, url=url, api_key=api_key)
        self.http = HttpTransport(self.config, transport)
        super().__init__(self.http)

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncClient(_Resources[AsyncTransport]):
    """Asyncio client: like `Client`, but methods are coroutines and lists are async iterators."""

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.config = config.load(os.environ, url=url, api_key=api_key)
        self.http = AsyncHttpTransport(self.config, transport)
        super().__init__(self.http)

    async def close(self) -> None:
        await self.http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()
