"""The error codes of OpenAI's API, which a gateway sends, as typed errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from foundry_api.types.access_errors import AuthenticationFailed, PermissionDenied, QuotaExceeded
from foundry_api.types.errors import (
    CallTimeout,
    CatalogUnavailable,
    ContextOverflow,
    DeadlineExceeded,
    DownloadFailed,
    FoundryError,
    InvalidRequest,
    ModelInUse,
    ModelLoadFailed,
    ModelNotFound,
    ModelTaskMismatch,
    ResponseNotFound,
    ServiceOverloaded,
    StructuredOutputError,
    ToolCallError,
    UnsupportedFeature,
    UnsupportedParameter,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["get_error_class", "set_field"]

_CLASSES: Final[Mapping[str, type[FoundryError]]] = {
    "invalid_api_key": AuthenticationFailed,
    "insufficient_scope": PermissionDenied,
    "model_not_allowed": PermissionDenied,
    "insufficient_quota": QuotaExceeded,
    "rate_limit_exceeded": ServiceOverloaded,
    "too_many_failures": ServiceOverloaded,
    "queue_full": ServiceOverloaded,
    "queue_timeout": ServiceOverloaded,
    "model_loading": ServiceOverloaded,
    "shutting_down": ServiceOverloaded,
    "upstream_overloaded": ServiceOverloaded,
    "upstream_unavailable": ServiceOverloaded,
    "deadline_exceeded": DeadlineExceeded,
    # The limits of the gateway itself. They are no ReadTimeout, which counts as a measured wait.
    "call_timeout": CallTimeout,
    "first_token_timeout": CallTimeout,
    "gap_timeout": CallTimeout,
    "upstream_timeout": CallTimeout,
    "model_not_found": ModelNotFound,
    "model_in_use": ModelInUse,
    "model_load_failed": ModelLoadFailed,
    "model_task_mismatch": ModelTaskMismatch,
    "download_failed": DownloadFailed,
    "catalog_unavailable": CatalogUnavailable,
    "context_length_exceeded": ContextOverflow,
    "response_not_found": ResponseNotFound,
    "previous_response_not_found": ResponseNotFound,
    "unsupported_parameter": UnsupportedParameter,
    "unsupported_feature": UnsupportedFeature,
    "unsupported_content": UnsupportedFeature,
    "idempotency_error": InvalidRequest,
    "invalid_model_output": StructuredOutputError,
    "invalid_tool_call": ToolCallError,
}


def get_error_class(error: Mapping[str, Any]) -> type[FoundryError] | None:
    """Return the class for the code of an error object; None for no code or an unknown one."""
    code = error.get("code")
    return _CLASSES.get(code) if isinstance(code, str) else None


def set_field(failure: FoundryError, error: Mapping[str, Any]) -> None:
    """Name the field that an error object blames, unless the failure names one already."""
    param = error.get("param")
    if not isinstance(failure, InvalidRequest | UnsupportedFeature):
        return
    if failure.field is None and isinstance(param, str):
        failure.field = param
