"""Why an endpoint cannot be created or changed: as reasons of `explain`, and as errors of routes."""

from typing import Final

from modelshare.server.errors import (
    ApiError,
    AuditedRefusal,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
)
from modelshare.server.registry import file_selection
from modelshare.server.registry.tables import VersionRow
from modelshare.wire.endpoints import Reason
from modelshare.wire.errors import ErrorCode

_FORBIDDEN: Final = {"recall": ErrorCode.MODEL_RECALLED, "signature": ErrorCode.SIGNATURE_REQUIRED}


def refused(reason: Reason, refusal: AuditedRefusal | None) -> ApiError:
    """The error with the text of `explain`."""
    text = f"{reason.message} {reason.fix}"
    match reason.rule:
        case "visibility":
            return NotFoundError(text, code=ErrorCode.MODEL_NOT_FOUND, param="model", refusal=refusal)
        case "tier" | "version" | "file":
            return InvalidRequestError(text, param=reason.rule, refusal=refusal)
        case "slug":
            return ConflictError(text, code=ErrorCode.SLUG_TAKEN, param="slug")
        case "status":
            return ConflictError(text, param="model", refusal=refusal)
        case "recall" | "signature":
            return PermissionDeniedError(text, code=_FORBIDDEN[reason.rule], param="model", refusal=refusal)
        case _:
            return PermissionDeniedError(text, code=ErrorCode.TIER_NOT_ALLOWED, param="tier", refusal=refusal)


def slug_taken(slug: str) -> Reason:
    return Reason(
        rule="slug",
        message=f"Your project already has an endpoint `{slug}`.",
        fix="Choose another slug, or delete that endpoint.",
    )


def no_such_file(file: str, version: VersionRow) -> Reason:
    names = [choice["file"] for choice in file_selection.choices(version)] or [
        file_selection.own_file(version) or "none"
    ]
    return Reason(
        rule="file",
        message=f"Version {version.version} of this model does not contain the model `{file}`.",
        fix=f"Choose one of: {', '.join(names)}. Leave `file` out for the version's default.",
    )


def absent() -> NotFoundError:
    return NotFoundError(
        "There is no such endpoint in your project. GET /v1/endpoints lists yours.", code=ErrorCode.ENDPOINT_NOT_FOUND
    )
