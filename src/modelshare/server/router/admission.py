"""Limits of the tier, per endpoint and process. In memory, without I/O; the clock is passed in.

Concurrency is counted in sequences: a request for eight answers counts as eight requests. It is admitted while
there is any capacity, even if it needs more, so that small requests cannot block a large one forever.

Requests per minute may burst by the tier's `burst_percent`. Tokens are charged after the answer, when they are known;
an endpoint that overdrew waits until its bucket is full enough again.
"""

import math
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from modelshare.server.errors import RateLimitedError
from modelshare.server.ratelimit import Bucket
from modelshare.wire.errors import ErrorCode
from modelshare.wire.tiers import Tier

_MAX: Final = 100_000
"""Endpoints kept; the least recently used are dropped."""
_MINUTE: Final = 60


class Gate:
    """An endpoint's use of its tier's limits."""

    __slots__ = ("_clock", "_requests", "_tokens", "busy", "tier")

    def __init__(self, tier: Tier, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        now = clock()
        self.tier = tier
        self._clock = clock
        self.busy = 0
        self._requests = _bucket(tier.requests_per_minute, 1 + tier.burst_percent / 100, now)
        self._tokens = _bucket(tier.tokens_per_minute, 1, now)

    def enter(self) -> None:
        """Counts one request until `leave`. Raises RateLimitedError if the tier does not allow it now."""
        tier, now = self.tier, self._clock()
        if self.busy >= tier.max_concurrent_requests:
            raise RateLimitedError(
                f"{self.busy} answers are in progress, and the tier `{tier.slug}` allows "
                f"{tier.max_concurrent_requests} at the same time. Wait for one to finish.",
                code=ErrorCode.CAPACITY_EXCEEDED,
                retry_after=1,
            )
        if self._tokens is not None and (wait := self._tokens.take(0, now)):
            raise RateLimitedError(
                f"The tier `{tier.slug}` allows {tier.tokens_per_minute} tokens per minute, and they are used "
                f"up. Try again in {wait} s.",
                code=ErrorCode.RATE_LIMIT_EXCEEDED,
                retry_after=wait,
            )
        if self._requests is not None and (wait := self._requests.take(1, now)):
            raise RateLimitedError(
                f"The tier `{tier.slug}` allows {tier.requests_per_minute} requests per minute. Try again in {wait} s.",
                code=ErrorCode.RATE_LIMIT_EXCEEDED,
                retry_after=wait,
            )
        self.busy += 1

    def count_as(self, turns: int) -> None:
        """The request that entered counts as this many sequences."""
        self.busy += turns - 1

    def leave(self, turns: int = 1) -> None:
        """`turns`: as the request counted."""
        self.busy -= turns

    def charge(self, tokens: int) -> None:
        if self._tokens is not None:
            self._tokens.charge(tokens, self._clock())

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`x-ratelimit-*` headers as in OpenAI's API, for what the tier limits."""
        found: list[tuple[bytes, bytes]] = []
        now = self._clock()
        for kind, bucket in ((b"requests", self._requests), (b"tokens", self._tokens)):
            if bucket is not None:
                bucket.refill(now)
                left = max(0, min(math.floor(bucket.level), round(bucket.per_minute)))
                full = (bucket.capacity - bucket.level) * _MINUTE / bucket.per_minute
                found += [
                    (b"x-ratelimit-limit-" + kind, b"%d" % bucket.per_minute),
                    (b"x-ratelimit-remaining-" + kind, b"%d" % left),
                    (b"x-ratelimit-reset-" + kind, _duration(full)),
                ]
        return found


class Admission:
    """The gates of all endpoints in this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._gates: OrderedDict[uuid.UUID, Gate] = OrderedDict()

    def gate(self, endpoint_id: uuid.UUID, tier: Tier) -> Gate:
        """The endpoint's gate; a new one if the endpoint moved to another tier or the tier changed."""
        gate = self._gates.get(endpoint_id)
        if gate is None or (gate.tier is not tier and gate.tier != tier):
            gate = self._gates[endpoint_id] = Gate(tier, self._clock)
            if len(self._gates) > _MAX:
                self._gates.popitem(last=False)
        else:
            self._gates.move_to_end(endpoint_id)
        return gate


def _bucket(per_minute: int | None, factor: float, now: float) -> Bucket | None:
    if per_minute is None:
        return None
    return Bucket(per_minute=per_minute, capacity=per_minute * factor, level=per_minute * factor, updated=now)


def _duration(seconds: float) -> bytes:
    """`1m3s`, `12s` or `250ms`, as in OpenAI's API."""
    if seconds >= _MINUTE:
        return b"%dm%ds" % divmod(math.ceil(seconds), _MINUTE)
    return b"%ds" % math.ceil(seconds) if seconds >= 1 else b"%dms" % math.ceil(seconds * 1000)
