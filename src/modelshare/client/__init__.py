"""The Python SDK. `Client` blocks, `AsyncClient` is for asyncio; both have the same resources and types.

from modelshare.client import Client

with Client() as client:
    for model in client.models.list():
        print(model.name, model.status)
"""

import importlib
from typing import TYPE_CHECKING, Any

from modelshare.client.errors import (
    ApiError,
    AuthenticationError,
    ChangedError,
    ConfigError,
    ConflictError,
    ConnectError,
    InvalidRequestError,
    ModelFailedError,
    ModelshareError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SourceError,
    UnexpectedAnswerError,
    WebhookSignatureError,
)

if TYPE_CHECKING:
    from modelshare.client.catalog import CatalogFilter
    from modelshare.client.client import AsyncClient, Client
    from modelshare.client.webhooks import verify_webhook

__all__ = [
    "ApiError",
    "AsyncClient",
    "AuthenticationError",
    "CatalogFilter",
    "ChangedError",
    "Client",
    "ConfigError",
    "ConflictError",
    "ConnectError",
    "InvalidRequestError",
    "ModelFailedError",
    "ModelshareError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "ServerError",
    "SourceError",
    "UnexpectedAnswerError",
    "WebhookSignatureError",
    "verify_webhook",
]

_LATE = {
    "AsyncClient": "modelshare.client.client",
    "CatalogFilter": "modelshare.client.catalog",
    "Client": "modelshare.client.client",
    "verify_webhook": "modelshare.client.webhooks",
}


def __getattr__(name: str) -> Any:
    """Imported when it is used (PEP 562): the command line wants errors before it knows whether it needs a client."""
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(name)
