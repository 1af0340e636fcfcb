"""Background jobs for endpoints."""

from collections.abc import Mapping
from functools import partial

from modelshare.server.endpoints import recalls
from modelshare.server.endpoints.policy import EndpointsPlatform
from modelshare.server.jobs import Handler


def handlers(platform: EndpointsPlatform) -> Mapping[str, Handler]:
    """The handlers of the endpoints' jobs, by kind."""
    return {recalls.STOP: partial(recalls.stop, platform)}
