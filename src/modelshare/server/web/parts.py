"""The platform's parts that pages work with, as dependencies."""

from typing import Annotated

from fastapi import Depends

from modelshare.server.endpoints.service import Terms
from modelshare.server.http import PlatformDep
from modelshare.server.sharing.tiers import TierBook
from modelshare.server.web.live import Live


async def _terms(platform: PlatformDep) -> Terms:
    found: Terms = platform.parts[Terms]
    return found


async def _tiers(platform: PlatformDep) -> TierBook:
    found: TierBook = platform.parts[TierBook]
    return found


async def _live(platform: PlatformDep) -> Live:
    found: Live = platform.parts[Live]
    return found


TermsDep = Annotated[Terms, Depends(_terms)]
TiersDep = Annotated[TierBook, Depends(_tiers)]
LiveDep = Annotated[Live, Depends(_live)]
