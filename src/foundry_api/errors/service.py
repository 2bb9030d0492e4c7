"""The service, not the request, is at fault."""

from __future__ import annotations

from foundry_api.errors.base import FoundryError

__all__ = [
    "CircuitOpen",
    "ProtocolError",
    "RouteMissing",
    "ServerError",
    "ServiceCrashed",
    "ServiceError",
    "ServiceNotRunning",
    "ServiceOverloaded",
    "ServiceStartFailed",
    "StreamInterrupted",
]


class ServiceError(FoundryError):
    """The service, not the request, is at fault."""


class ServiceNotRunning(ServiceError):
    """Nothing answers at the service's address."""

    default_hint = (
        "Start one with `foundry-api up`, or see what is there with `foundry-api status`."
    )
    retryable = True


class CircuitOpen(ServiceError):
    """The service failed too often lately, so the circuit breaker let nothing through to it.

    Attributes:
        retry_after_s: Seconds until the breaker will let a call through.
    """

    default_hint = "See the causes of its failures in the log, or use another service."

    def __init__(
        self, message: str, *, retry_after_s: float = 0.0, service: str | None = None
    ) -> None:
        super().__init__(message, service=service)
        self.retry_after_s = retry_after_s


class ServiceOverloaded(ServiceError):
    """The service has more to do than it can: HTTP 429 or 503.

    Attributes:
        retry_after_s: Seconds after which it wants to be asked again; None if it did not say.
    """

    default_hint = "Call again later, or send fewer calls at once."
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        service: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message, service=service, status=status)
        self.retry_after_s = retry_after_s


class ServiceCrashed(ServiceError):
    """The service went away during a call."""

    default_hint = "Call again: an embedded engine is restarted; a foreign one has to be started."
    retryable = True


class ServiceStartFailed(ServiceError):
    """The engine host could not be started.

    Attributes:
        log_path: The host's log file, if it got as far as opening one.
    """

    default_hint = "The log names the cause."

    def __init__(
        self, message: str, *, log_path: str | None = None, hint: str | None = None
    ) -> None:
        if hint is None and log_path:
            hint = f"The cause is in its log: {log_path}"
        super().__init__(message, hint=hint)
        self.log_path = log_path


class RouteMissing(ServiceError):
    """The service has no such route, though its generation does: a version nobody has met yet?"""

    default_hint = "See what answers there with `foundry-api status`, or use service='embedded'."


class ProtocolError(ServiceError):
    """The service sent bytes that its protocol does not allow, or more than the bounds allow."""

    default_hint = "Check that the address is a Foundry Local service: `foundry-api status`."


class ServerError(ServiceError):
    """The service failed and says that it is its own fault."""

    default_hint = "Call again; if it persists, the engine's log tells more."
    retryable = True


class StreamInterrupted(ServiceError):
    """A stream ended without finish reason or end mark: the answer is not whole."""

    default_hint = "The text so far is in .partial; call again for a whole answer."
    retryable = True
