"""The errors of API keys: what a service does not let its caller do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.types.errors import ConfigurationError, FoundryError, InvalidRequest

if TYPE_CHECKING:
    from typing import Unpack

    from foundry_api.types.errors import ErrorDetails

__all__ = ["AuthenticationFailed", "PermissionDenied", "QuotaExceeded"]


class AuthenticationFailed(ConfigurationError):
    """The service rejects the API key, or requires one."""

    default_hint = "Give a valid key of the service as api_key or FOUNDRY_API_KEY."


class PermissionDenied(InvalidRequest):
    """The API key is valid, but not for this route or this model."""

    default_hint = "Ask the operator of the service for a key that may do this."


class QuotaExceeded(FoundryError):
    """The API key has used up its tokens for a day or a month, so a retry would fail too.

    Attributes:
        retry_after_s: Seconds until the key has tokens again; None if the service does not say.
    """

    default_hint = "Wait until the quota is renewed, or ask the operator for a larger one."

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, **details: Unpack[ErrorDetails]
    ) -> None:
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s
