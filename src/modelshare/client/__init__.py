"""The Python SDK. `Client` blocks, `AsyncClient` is for asyncio; both have the same resources and types.

from modelshare.client import Client

with Client() as client:
    for model in client.models.list():
        print(model.name, model.status)
"""

from modelshare.client.catalog import CatalogFilter
from modelshare.client.client import AsyncClient, Client
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
    PullError,
    RateLimitError,
    ServerError,
    SourceError,
    UnexpectedAnswerError,
    WebhookSignatureError,
)
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
    "PullError",
    "RateLimitError",
    "ServerError",
    "SourceError",
    "UnexpectedAnswerError",
    "WebhookSignatureError",
    "verify_webhook",
]
