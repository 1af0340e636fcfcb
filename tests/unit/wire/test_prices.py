"""Prices are exact."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelshare.server.router.usage import cost_of
from modelshare.wire.tiers import PRICE_SCALE, Tier

LIMITS = {"max_concurrent_requests": 1, "request_timeout_seconds": 1, "stream_idle_timeout_seconds": 1}


def tier(price: float | None) -> Tier:
    return Tier(
        slug="x",
        name="x",
        category="free",
        may_evict=True,
        price_per_million_tokens=price,
        **LIMITS,
    )


@given(st.integers(0, 10**12), st.integers(0, 2**40))
def test_the_cost_of_tokens_is_the_price_times_their_number(millionths: int, tokens: int) -> None:
    price = tier(millionths / PRICE_SCALE)
    assert price.token_price == millionths
    cost = cost_of(*divmod(tokens * price.token_price, PRICE_SCALE))
    assert cost * PRICE_SCALE * PRICE_SCALE == Decimal(millionths * tokens)


def test_no_price_costs_nothing() -> None:
    assert tier(None).token_price == 0


@pytest.mark.parametrize("price", [-0.1, 1e10, float("inf"), float("nan"), 0.0000001])
def test_what_is_no_price_is_refused(price: float) -> None:
    with pytest.raises(ValidationError, match="price_per_million_tokens"):
        tier(price)
