"""The platform's parts that pages work with, as dependencies."""

from typing import Annotated

from fastapi import Depends

from modelshare.server.endpoints.service import EndpointPolicy
from modelshare.server.http import PlatformDep
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.server.web.live import Live


async def _terms(platform: PlatformDep) -> EndpointPolicy:
    found: EndpointPolicy = platform.parts[EndpointPolicy]
    return found


async def _tiers(platform: PlatformDep) -> TierRegistry:
    found: TierRegistry = platform.parts[TierRegistry]
    return found


async def _live(platform: PlatformDep) -> Live:
    found: Live = platform.parts[Live]
    return found


TermsDep = Annotated[EndpointPolicy, Depends(_terms)]
TiersDep = Annotated[TierRegistry, Depends(_tiers)]
LiveDep = Annotated[Live, Depends(_live)]
