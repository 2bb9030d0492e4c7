"""What follows a failed attempt: another service, another try, another model, or the error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.errors import (
    CircuitOpen,
    ContextOverflow,
    ModelError,
    QueueFull,
    ServerError,
    ServiceCrashed,
    ServiceError,
    SilenceTimeout,
    StreamInterrupted,
    UnsupportedFeature,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.errors import FoundryError
    from foundry_api.resilience.retry import Retry
    from foundry_api.services import Service, Services

__all__ = ["Recovery"]

ANOTHER_SERVICE_MAY = (ServiceError, ModelError, QueueFull, UnsupportedFeature)
"""What one service failed with, or lacks, says nothing of the next one."""

ANOTHER_MODEL_MAY = (
    ModelError,
    ContextOverflow,
    ServerError,
    ServiceCrashed,
    StreamInterrupted,
    SilenceTimeout,
)
"""What a model was the cause of. A service that is gone has no other model either."""


class Recovery:
    """The options that are left to one call.

    Args:
        retry: How to try again.
        services: Whom else to ask.
        models: The names of the models, in the order in which to try them.

    Attributes:
        model: Name of the model to ask for now.
        tried: Services that failed for it.
    """

    def __init__(self, retry: Retry, services: Services, models: Sequence[str]) -> None:
        self.model, *self._fallbacks = models
        self.tried: set[Service] = set()
        self._retry = retry
        self._services = services
        self._failures = 0

    def after(self, error: FoundryError, service: Service | None, left_s: float) -> float | None:
        """Seconds until the next attempt; None if the error is final, which its hint may explain.

        Args:
            error: What ended the last attempt, before its first token.
            service: Who was asked; None if none was found.
            left_s: Seconds until the call's deadline.
        """
        if service is not None and self._goes_elsewhere(error, service):
            return 0.0
        delay_s = self._tries_again(error, left_s)
        if delay_s is None and self._takes_another_model(error):
            return 0.0
        return delay_s

    def _goes_elsewhere(self, error: FoundryError, service: Service) -> bool:
        if not isinstance(error, ANOTHER_SERVICE_MAY) or service in self.tried:
            return False
        self.tried.add(service)
        return self._services.has_untried(self.tried) and self._retry.budget.take()

    def _tries_again(self, error: FoundryError, left_s: float) -> float | None:
        # A call that had begun waits for the breaker; a new one is refused at once.
        waits_for_breaker = isinstance(error, CircuitOpen) and self._failures > 0
        if not (error.retryable or waits_for_breaker) or self._failures >= self._retry.retries:
            return None
        self._failures += 1
        delay_s = self._retry.delay_s(error, self._failures)
        if delay_s >= left_s:
            error.hint = f"{error.hint} Its deadline leaves no time for another attempt."
            return None
        if not (waits_for_breaker or self._retry.budget.take()):
            error.hint = f"{error.hint} So many calls failed that the retry budget is spent."
            return None
        return delay_s

    def _takes_another_model(self, error: FoundryError) -> bool:
        if not self._fallbacks or not isinstance(error, ANOTHER_MODEL_MAY):
            return False
        self.model = self._fallbacks.pop(0)
        self.tried.clear()
        self._failures = 0
        return True
