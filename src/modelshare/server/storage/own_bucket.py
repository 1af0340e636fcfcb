"""A project's own bucket: who the platform is there, and connections that only reach public addresses."""

import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from boto3.session import Session
from botocore.awsrequest import AWSHTTPConnection, AWSHTTPConnectionPool, AWSHTTPSConnection, AWSHTTPSConnectionPool
from botocore.config import Config
from botocore.credentials import DeferredRefreshableCredentials
from botocore.exceptions import EndpointConnectionError
from urllib3 import PoolManager
from urllib3.connection import HTTPConnection
from urllib3.exceptions import NewConnectionError

from modelshare.server.public_addresses import not_public
from modelshare.server.storage.aws_session import open_session
from modelshare.wire.public_addresses import is_public

NO_IDENTITY: Final = (
    "The platform has no AWS identity that could assume a role. Use access keys, or ask the platform's operator."
)
NOT_PUBLIC: Final = "A storage must have a public address, unless the operator sets `storage_allow_private`."
DEFAULT_REGION: Final = "us-east-1"
_CODE: Final = re.compile("[A-Za-z0-9_.-]{1,60}")
_SESSION_SECONDS: Final = 3600
_AWS: Final = (".amazonaws.com", ".amazonaws.com.cn")


@dataclass(frozen=True, slots=True)
class Keys:
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Role:
    """Assumed with the platform's own AWS identity; `external_id` prevents other projects from naming the same role."""

    arn: str
    external_id: str


@dataclass(frozen=True, slots=True)
class OwnBucket:
    name: str
    """What its owner calls it: `s3://bucket/prefix`."""
    identity: Keys | Role
    allow_private: bool
    remedy: str = "Run `modelshare storage check`, then try again."
    """What its owner does when the bucket refuses."""

    def client(self, options: Any, config: Config) -> Any:
        """A boto3 client of S3. Neither proxies nor endpoints of the environment apply: they are the operator's."""
        config = config.merge(Config(proxies={}, ignore_configured_endpoint_urls=True))
        region = options.region or DEFAULT_REGION
        if isinstance(self.identity, Keys):
            keys = self.identity
            session = open_session(
                aws_access_key_id=keys.access_key_id, aws_secret_access_key=keys.secret_access_key, region_name=region
            )
        else:
            session = self._role_session(self.identity, options.endpoint, region)
        return self.restrict(session.client("s3", endpoint_url=options.endpoint, config=config))

    def restrict(self, client: Any) -> Any:
        """Lets a boto3 client connect to public addresses only, unless private ones are allowed."""
        if not self.allow_private:
            client._endpoint.http_session._manager.pool_classes_by_scheme = _PUBLIC_POOLS  # noqa: SLF001 - botocore has no other way
        return client

    def plain_http(self) -> PoolManager:
        """For presigned URLs, used as somebody without credentials would."""
        manager = PoolManager(retries=False, timeout=20.0)
        if not self.allow_private:
            manager.pool_classes_by_scheme = _PUBLIC_POOLS
        return manager

    def rejected(self, code: str) -> str:
        return f"Your storage {self.name} rejects the platform{_said(code)}. {self.remedy}"

    def failed(self, code: str) -> str:
        """An error of the service itself, which may pass."""
        return f"Your storage {self.name} is not working{_said(code)}. Check that it is available, then try again."

    def unreachable(self, error: Exception) -> str:
        cause = error.kwargs.get("error") if isinstance(error, EndpointConnectionError) else error
        if isinstance(cause, NotPublicConnectionError):
            return not_public(cause.where, NOT_PUBLIC)
        return f"Your storage {self.name} is not responding. Check that it is available, then try again."

    def _role_session(self, role: Role, endpoint: str | None, region: str) -> Session:
        """STS of AWS, or of the endpoint itself where that is not AWS: MinIO and Ceph answer both at one address."""
        host = urlsplit(endpoint or "").hostname or ""
        at_aws = endpoint is None or host.endswith(_AWS)
        sts_config = Config(
            connect_timeout=10,
            read_timeout=20,
            retries={"mode": "standard", "total_max_attempts": 3},
            proxies={},
            ignore_configured_endpoint_urls=not at_aws,
        )
        where = None if at_aws else endpoint
        sts = open_session().client("sts", endpoint_url=where, region_name=region, config=sts_config)
        sts = sts if at_aws else self.restrict(sts)
        return open_session(credentials=RoleCredentials(lambda: _assume(sts, role)), region_name=region)


class RoleCredentials(DeferredRefreshableCredentials):  # type: ignore[misc] # botocore has no types
    """Of a session that botocore renews before it ends."""

    def __init__(self, refresh: Callable[[], dict[str, str]]) -> None:
        super().__init__(refresh_using=refresh, method="assume-role")

    def seconds_left(self) -> float:
        """Until the present session ends, and with it all that it has signed."""
        expiry = self._expiry_time
        return float(expiry.timestamp() - time.time()) if expiry is not None else 0.0


def _assume(sts: Any, role: Role) -> dict[str, str]:
    answer = sts.assume_role(
        RoleArn=role.arn,
        RoleSessionName="modelshare",
        ExternalId=role.external_id,
        DurationSeconds=_SESSION_SECONDS,
    )["Credentials"]
    return {
        "access_key": answer["AccessKeyId"],
        "secret_key": answer["SecretAccessKey"],
        "token": answer["SessionToken"],
        "expiry_time": answer["Expiration"].isoformat(),
    }


class NotPublicConnectionError(NewConnectionError):
    """The address that a connection would have gone to is not public."""

    def __init__(self, connection: HTTPConnection, where: str) -> None:
        super().__init__(connection, "not a public address")
        self.where = where


class _PublicOnly(HTTPConnection):
    """Resolves the name itself and connects to the very address that it has checked."""

    def _new_conn(self) -> socket.socket:
        name = self._dns_host
        try:
            found = socket.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise NewConnectionError(self, "the name does not resolve") from error
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        if not addresses or not all(map(is_public, addresses)):
            raise NotPublicConnectionError(self, name)
        try:
            for address in addresses[:-1]:
                self._dns_host = address
                try:
                    return super()._new_conn()
                except NewConnectionError:
                    continue
            self._dns_host = addresses[-1]
            return super()._new_conn()
        finally:
            self._dns_host = name


class _PublicHTTP(_PublicOnly, AWSHTTPConnection):  # type: ignore[misc] # botocore has no types
    pass


class _PublicHTTPS(_PublicOnly, AWSHTTPSConnection):  # type: ignore[misc] # botocore has no types
    pass


class _PublicHTTPPool(AWSHTTPConnectionPool):  # type: ignore[misc] # botocore has no types
    ConnectionCls = _PublicHTTP


class _PublicHTTPSPool(AWSHTTPSConnectionPool):  # type: ignore[misc] # botocore has no types
    ConnectionCls = _PublicHTTPS


_PUBLIC_POOLS: Final[dict[str, Any]] = {"http": _PublicHTTPPool, "https": _PublicHTTPSPool}


def _said(code: str) -> str:
    return f" ({code})" if _CODE.fullmatch(code) else ""
