"""Presigned URLs of the parts of one upload, requested for many parts at once: a request costs the server several times
what a signature does."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from modelshare.client.client import Client
from modelshare.client.errors import NotFoundError, UnexpectedAnswerError
from modelshare.client.plan import Part
from modelshare.wire.uploads import PART_URLS, PartPlace, PartUrl

FRESH_SECONDS: Final = 300.0
"""An older URL is not used, since it may expire before its part is sent. Those that were signed in vain on a slow
connection cost less than the server does anyway in that time."""
_Place = tuple[int, int]
"""Number of the file, number of the part."""


@dataclass(frozen=True, slots=True)
class _Known:
    target: PartUrl
    asked: float
    """Seconds of the monotonic clock."""


class PartUrls:
    """Thread-safe."""

    def __init__(self, client: Client, upload_id: str, parts: Iterable[Part]) -> None:
        """`parts`: those that will be sent, about in their order."""
        self._client = client
        self._upload_id = upload_id
        self._waiting = dict.fromkeys((part.n, part.k) for part in parts)
        self._known: dict[_Place, _Known] = {}
        self._one_by_one = False
        self._lock = threading.Lock()

    def take(self, part: Part) -> PartUrl:
        """The part's URL. A part that is sent again gets another one. Raises ModelshareError."""
        place = part.n, part.k
        with self._lock:
            self._waiting.pop(place, None)
            found = self._known.pop(place, None)
            if found is None or not self._is_fresh(found):
                self._ask(place)
                found = self._known.pop(place)
        return found.target

    def _ask(self, place: _Place) -> None:
        """For this part, and for the next ones that have none."""
        self._known = {each: known for each, known in self._known.items() if self._is_fresh(known)}
        following = [each for each in islice(self._waiting, PART_URLS - 1) if each not in self._known]
        wanted = [place, *following]
        asked = time.monotonic()
        try:
            if self._one_by_one:
                wanted, answer = [place], [self._client.uploads.part_url(self._upload_id, *place)]
            else:
                places = [PartPlace(n=n, k=k) for n, k in wanted]
                answer = self._client.uploads.part_urls(self._upload_id, places).data
        except NotFoundError:
            if self._one_by_one:
                raise
            self._one_by_one = True  # the server may be of the version before
            self._ask(place)
            return
        if len(answer) != len(wanted):
            raise UnexpectedAnswerError(
                f"{self._client.config.url} answered with {len(answer)} URLs for {len(wanted)} parts. Check that "
                "it is a modelshare server of a matching version."
            )
        self._known |= {each: _Known(target, asked) for each, target in zip(wanted, answer, strict=True)}

    @staticmethod
    def _is_fresh(known: _Known) -> bool:
        return time.monotonic() - known.asked < FRESH_SECONDS
