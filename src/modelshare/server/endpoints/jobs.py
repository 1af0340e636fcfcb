"""What endpoints do at a time of their own."""

from collections.abc import Mapping
from functools import partial

from modelshare.server.endpoints import recalls
from modelshare.server.endpoints.policy import EndpointsPlatform
from modelshare.server.jobs import Handler


def handlers(platform: EndpointsPlatform) -> Mapping[str, Handler]:
    """For the process's worker."""
    return {recalls.STOP: partial(recalls.stop, platform)}
