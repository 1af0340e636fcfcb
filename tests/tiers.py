"""A tier that limits only what a test says."""

from modelshare.wire.tiers import Tier, TierCategory


def limited_tier(
    slug: str = "shared", *, requests: int | None = None, tokens: int | None = None, concurrent: int = 100_000
) -> Tier:
    return Tier(
        slug=slug,
        name=slug,
        category=TierCategory.FREE,
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        max_concurrent_requests=concurrent,
        request_timeout_seconds=30,
        stream_idle_timeout_seconds=120,
        may_evict=True,
    )
