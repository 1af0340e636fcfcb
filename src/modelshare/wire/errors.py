"""Error responses: `{"error": {"message", "type", "code", "param"}}` on every route, as in OpenAI's API."""

from enum import StrEnum

from modelshare.wire.base import Response


class ErrorType(StrEnum):
    INVALID_REQUEST = "invalid_request_error"
    AUTHENTICATION = "authentication_error"
    PERMISSION = "permission_error"
    NOT_FOUND = "not_found_error"
    CONFLICT = "conflict_error"
    RATE_LIMIT = "rate_limit_error"
    SERVER = "server_error"


class ErrorCode(StrEnum):
    """Codes that programs may rely on. Share and unshare have none: there, the message is the contract."""

    PROJECT_NOT_FOUND = "project_not_found"
    MODEL_NOT_FOUND = "model_not_found"
    TIER_NOT_ALLOWED = "tier_not_allowed"
    SLUG_TAKEN = "slug_taken"
    MODEL_IN_USE = "model_in_use"
    VERSION_IN_USE = "version_in_use"
    MODEL_RECALLED = "model_recalled"
    SIGNATURE_REQUIRED = "signature_required"
    ENDPOINT_NOT_FOUND = "endpoint_not_found"
    ENDPOINT_INACTIVE = "endpoint_inactive"
    MODEL_LOADING = "model_loading"
    CAPACITY_EXCEEDED = "capacity_exceeded"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    BUDGET_EXCEEDED = "budget_exceeded"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    QUOTA_EXCEEDED = "quota_exceeded"
    FILES_CHANGED = "files_changed"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    UPLOAD_NOT_OPEN = "upload_not_open"
    PART_REPLACED = "part_replaced"
    STORAGE_FULL = "storage_full"
    STORAGE_CHECK_FAILED = "storage_check_failed"
    OWNER_AWAY = "owner_away"


class ErrorBody(Response):
    message: str
    type: ErrorType
    code: str | None = None
    param: str | None = None


class ErrorEnvelope(Response):
    error: ErrorBody
