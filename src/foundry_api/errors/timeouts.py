"""A time bound fell."""

from __future__ import annotations

from foundry_api.errors.base import FoundryError
from foundry_api.errors.service import ServiceNotRunning

__all__ = ["CallTimeout", "ConnectTimeout", "DeadlineExceeded", "SilenceTimeout"]


class CallTimeout(FoundryError, TimeoutError):
    """A time bound of the call fell; the engine's work was stopped.

    Attributes:
        limit_s: The bound that fell, in seconds.
        stage: How far the call was, such as `waiting for the first token`.
    """

    default_hint = "Raise the bound, or ask for less: a shorter prompt, fewer max_tokens."

    def __init__(
        self,
        message: str,
        *,
        limit_s: float = 0.0,
        stage: str = "",
        hint: str | None = None,
        service: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, service=service)
        self.limit_s = limit_s
        self.stage = stage


class SilenceTimeout(CallTimeout):
    """No token came for `timeout` seconds."""

    default_hint = "Raise timeout= or FOUNDRY_TIMEOUT, shorten the prompt, or use a smaller model."


class DeadlineExceeded(CallTimeout):
    """The call as a whole, with its queueing and retries, took longer than its deadline."""

    default_hint = "Allow a later deadline, or ask for less: a shorter prompt, fewer max_tokens."


class ConnectTimeout(CallTimeout, ServiceNotRunning):
    """The service's address did not accept a connection in time."""

    default_hint = "Check the address and whether a firewall drops packets to it."
