"""The jobs that make versions ready. Killed at any moment, each begins again and ends the same."""

import uuid
from collections.abc import Mapping
from functools import partial

from modelshare.server.http import Platform
from modelshare.server.jobs import Handler, Lease
from modelshare.server.outages import outage_of
from modelshare.server.registry.blobs.collecting import collect
from modelshare.server.registry.blobs.disposal import COLLECT
from modelshare.server.registry.processing import outcome
from modelshare.server.registry.processing.ingest import ingest
from modelshare.server.registry.processing.judging import judge, verify
from modelshare.server.registry.processing.service import PROCESS, REVALIDATE
from modelshare.server.registry.processing.work import Work, load, stored_files
from modelshare.server.registry.refused import ModelRejectedError
from modelshare.server.storage.base import BlobNotFoundError, MultipartNotFoundError, PartsMissingError
from modelshare.wire.models import ModelStatus

_GAVE_UP = (
    "The server could not read or store this version's files. Contact the platform's operator, then run `revalidate`."
)
_INCOMPLETE = "Some of this version's bytes are missing in storage. Push it again."


def handlers(platform: Platform) -> Mapping[str, Handler]:
    """For the process's worker."""
    return {
        PROCESS: partial(process, platform, fresh=False),
        REVALIDATE: partial(process, platform, fresh=True),
        COLLECT: partial(collect, platform),
    }


async def process(platform: Platform, lease: Lease, *, fresh: bool) -> None:
    """Brings a version to ready or failed. `anew`: it may be ready, and its blobs are read again."""
    work = await load(platform.database, uuid.UUID(lease.subject))
    if work is None or not (work.status == ModelStatus.PROCESSING or (fresh and work.status == ModelStatus.READY)):
        return
    if lease.attempts_exhausted:
        await _give_up(platform, lease, work)
        return
    try:
        await _steps(platform, lease, work, fresh=fresh)
    except ModelRejectedError as refused:
        await outcome.failed(platform, lease, work, refused.reason)
    except (PartsMissingError, MultipartNotFoundError, BlobNotFoundError):
        await outcome.failed(platform, lease, work, _INCOMPLETE)
    except Exception as error:
        if lease.last and outage_of(error) is None:
            await _give_up(platform, lease, work)
        raise


async def _give_up(platform: Platform, lease: Lease, work: Work) -> None:
    """A version that is ready stays so: that its bytes could not be read now says nothing against them."""
    if work.status == ModelStatus.PROCESSING:
        await outcome.failed(platform, lease, work, _GAVE_UP)


async def _steps(platform: Platform, lease: Lease, work: Work, *, fresh: bool) -> None:
    if work.staged is not None:
        await ingest(platform, lease, work, work.staged)
    files = await stored_files(platform.database, work.version_id)
    if fresh and work.staged is None:
        await verify(platform, work.project_id, files)
    facts = await judge(platform, files, work.file)
    await outcome.ready(platform, lease, work, files, facts)
