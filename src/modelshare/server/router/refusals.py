"""Errors that explain why an endpoint cannot serve a request."""

from collections.abc import Collection
from typing import Final

from modelshare.server.errors import (
    ApiError,
    InvalidRequestError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from modelshare.wire.agents import Phase
from modelshare.wire.endpoints import EndpointProgress, EndpointStatus
from modelshare.wire.errors import ErrorCode
from modelshare.wire.inference import InferenceRequest
from modelshare.wire.tiers import Tier
from modelshare.wire.units import size

_WORK: Final = {
    Phase.WAITING: "is waiting to be downloaded by its machine",
    Phase.PULLING: "is being downloaded by its machine",
    Phase.VERIFYING: "is being verified on its machine",
    Phase.CONVERTING: "is being converted for its engine",
    Phase.LOADING: "is being loaded by its engine",
    Phase.READY: "is almost ready",
}
_LOADING: Final = ErrorCode.MODEL_LOADING
_SOON, _LATER, _LONG = 2, 10, 60
"""Seconds for `Retry-After`."""


def unavailable(status: EndpointStatus, reason: str | None, progress: EndpointProgress | None) -> ApiError:
    """For an endpoint without a deployment that can serve it."""
    if status is EndpointStatus.INACTIVE:
        how = "Its project can activate it again, on its page or with `modelshare endpoints activate`."
        return _inactive(f"This endpoint is inactive. {reason or how}")
    if status is EndpointStatus.FAILED:
        return UnavailableError(f"This endpoint cannot serve: {reason}", retry_after=_LONG)
    if progress is not None:
        wait = _LATER if progress.phase == Phase.PULLING else _SOON
        return UnavailableError(f"The model {_words(progress)}. Try again later.", code=_LOADING, retry_after=wait)
    if status is EndpointStatus.PROVISIONING:
        return UnavailableError(
            reason or "The model is being assigned to a machine. Try again.", code=_LOADING, retry_after=_LATER
        )
    return UnavailableError(
        reason or "The machine that runs the model is disconnected. Try again in a moment.", retry_after=_SOON
    )


def key_over() -> ApiError:
    """For a request whose key ended while it ran."""
    return UnauthenticatedError(
        "The key of this request expired, or was revoked, suspended or replaced during the request. Use another key."
    )


def session_over() -> ApiError:
    """For a request whose session or membership ended while it ran."""
    return UnauthenticatedError(
        "Your session or your membership in this project ended during the request. Sign in again."
    )


def recalled() -> ApiError:
    """For an endpoint whose recall is due, even if the job has not stopped it yet."""
    return _inactive("This endpoint has stopped: the model was recalled by its owner.")


def not_served(route: str, served: Collection[str]) -> ApiError:
    """For a route that the model's engine does not serve."""
    return NotFoundError(f"This model serves {', '.join(sorted(served)) or 'no route'}, not {route}.")


def check_size(asked: InferenceRequest, tier: Tier) -> None:
    """Raises InvalidRequestError if one request asks for more than the tier allows."""
    if asked.generates:
        count, limit = asked.sequences, tier.max_sequences_per_request
    else:
        count, limit = asked.prompts, tier.max_inputs_per_request
    if count <= limit:
        return
    if asked.generates:
        name = "n" if asked.prompts < asked.choices else "prompt"
        what = f"{count} answers (prompts: {asked.prompts}, to each: {asked.choices})"
    else:
        name, what = "input", f"{count} texts to embed"
    raise InvalidRequestError(
        f"`{name}` is too large: {what} in one request, and the tier `{tier.slug}` allows {limit}. Send several "
        "requests.",
        param=name,
    )


def _inactive(message: str) -> ApiError:
    return UnavailableError(message, code=ErrorCode.ENDPOINT_INACTIVE, retry_after=_LONG)


def _words(progress: EndpointProgress) -> str:
    words = _WORK.get(Phase(progress.phase), "is being prepared")
    if progress.phase != Phase.PULLING or not progress.bytes_total:
        return words
    percent = 100 * progress.bytes_done // progress.bytes_total
    return f"{words}: {size(progress.bytes_done)} of {size(progress.bytes_total)} ({percent} %)"
