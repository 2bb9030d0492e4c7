"""What follows a failed attempt: failover, retry, another model, or the error."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.core.call import (
    FAILOVER_ERRORS,
    LOST_SERVICE_ERRORS,
    MODEL_FALLBACK_ERRORS,
    FailurePolicy,
)
from foundry_api.core.service_pool import ServiceHandle, ServicePool
from foundry_api.resilience.backoff import Backoff
from foundry_api.resilience.retry import Retry, RetryBudget
from foundry_api.types import errors
from support.factories import make_service_handle

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.core.connection import Connection

FOREVER = math.inf
BACKOFF = Backoff(0.1, 5.0, uniform=lambda _, high: high)

KINDS: tuple[Callable[[], errors.FoundryError], ...] = (
    lambda: errors.ServerError("x"),
    lambda: errors.ServiceCrashed("x"),
    lambda: errors.ServiceNotRunning("x"),
    lambda: errors.ServiceOverloaded("x", retry_after_s=2.0),
    lambda: errors.CircuitOpen("x", retry_after_s=1.0),
    lambda: errors.StreamInterrupted("x"),
    lambda: errors.ModelNotLoaded("x"),
    lambda: errors.ModelNotFound("x"),
    lambda: errors.ContextOverflow("x"),
    lambda: errors.InvalidRequest("x"),
    lambda: errors.ProtocolError("x"),
    lambda: errors.QueueFull("x"),
    lambda: errors.ReadTimeout("x", limit_s=1.0),
    lambda: errors.DeadlineExceeded("x", limit_s=1.0),
    lambda: errors.ClientClosed("x"),
)


async def no_connection() -> Connection:
    raise AssertionError


def services_of(count: int) -> tuple[list[ServiceHandle], ServicePool]:
    services = [
        make_service_handle(f"http://{n}", no_connection, lambda: None) for n in range(count)
    ]
    return services, ServicePool(services, lambda: services[0])


def recovery(
    *,
    retries: int = 3,
    services: int = 1,
    models: tuple[str, ...] = ("tiny",),
    budget: float = 100.0,
) -> tuple[list[ServiceHandle], FailurePolicy]:
    known, all_of_them = services_of(services)
    retry = Retry(retries, BACKOFF, RetryBudget(budget, 0.0))
    return known, FailurePolicy(retry, all_of_them, models)


def test_temporary_failure_is_retried_with_growing_pauses() -> None:
    (service,), after = recovery(retries=3)
    delays = [after.get_next_delay_s(errors.ServerError("x"), service, FOREVER) for _ in range(4)]
    assert delays == [0.1, 0.2, 0.4, None]


def test_error_of_the_caller_is_final() -> None:
    (service,), after = recovery()
    assert after.get_next_delay_s(errors.InvalidRequest("x"), service, FOREVER) is None


def test_failover_comes_before_a_retry() -> None:
    (first, second), after = recovery(services=2, retries=1)
    assert after.get_next_delay_s(errors.ServiceCrashed("x"), first, FOREVER) == 0.0
    assert after.tried == {first}
    assert after.get_next_delay_s(errors.ServiceCrashed("x"), second, FOREVER) == 0.1
    assert after.get_next_delay_s(errors.ServiceCrashed("x"), first, FOREVER) is None


def test_next_model_is_used_after_a_final_failure() -> None:
    (service,), after = recovery(models=("big", "small"), retries=1)
    assert after.get_next_delay_s(errors.ModelNotFound("x"), service, FOREVER) == 0.0
    assert after.model == "small"
    assert after.get_next_delay_s(errors.ServerError("x"), service, FOREVER) == 0.1
    assert after.get_next_delay_s(errors.ServerError("x"), service, FOREVER) is None


def test_each_model_has_all_services_and_retries() -> None:
    (first, second), after = recovery(services=2, models=("big", "small"), retries=0)
    assert after.get_next_delay_s(errors.ModelNotFound("x"), first, FOREVER) == 0.0
    assert after.get_next_delay_s(errors.ModelNotFound("x"), second, FOREVER) == 0.0
    assert (after.model, after.tried) == ("small", set())


def test_missing_service_needs_no_other_model() -> None:
    (service,), after = recovery(models=("big", "small"), retries=0)
    assert after.get_next_delay_s(errors.ServiceNotRunning("x"), service, FOREVER) is None


def test_no_attempt_starts_after_the_deadline() -> None:
    (service,), after = recovery()
    error = errors.ServerError("x")
    assert after.get_next_delay_s(error, service, 0.05) is None
    assert "deadline leaves no time" in error.hint


def test_spent_budget_allows_no_attempt() -> None:
    (service,), after = recovery(budget=1)
    assert after.get_next_delay_s(errors.ServerError("x"), service, FOREVER) == 0.1
    error = errors.ServerError("x")
    assert after.get_next_delay_s(error, service, FOREVER) is None
    assert "retry budget is spent" in error.hint


def test_only_a_call_with_an_attempt_waits_for_the_breaker() -> None:
    """The wait costs no budget, because nothing is sent."""
    (service,), after = recovery(budget=1)
    assert (
        after.get_next_delay_s(errors.CircuitOpen("x", retry_after_s=1.0), service, FOREVER) is None
    )
    (service,), after = recovery(budget=1)
    assert after.get_next_delay_s(errors.ServerError("x"), service, FOREVER) == 0.1
    assert (
        after.get_next_delay_s(errors.CircuitOpen("x", retry_after_s=1.0), service, FOREVER) == 1.2
    )


@given(st.data())
def test_attempts_are_limited_and_ordered(data: st.DataObject) -> None:
    """General rules for any failures in any order."""
    retries, budget = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 6))
    models = data.draw(st.sampled_from([("a",), ("a", "b"), ("a", "b", "c")]))
    services, after = recovery(
        retries=retries, services=data.draw(st.integers(1, 3)), models=models, budget=budget
    )
    attempts, tried_again, elsewhere = 0, 0, 0
    while True:
        attempts += 1
        error = data.draw(st.sampled_from(KINDS))()
        remaining_s = data.draw(st.sampled_from([0.15, 3.0, FOREVER]))
        service = data.draw(st.sampled_from([*services, None]))
        model, tried = after.model, set(after.tried)
        delay_s = after.get_next_delay_s(error, service, remaining_s)
        if delay_s is None:
            break
        assert 0.0 <= delay_s < remaining_s
        if after.model != model:
            assert models.index(after.model) == models.index(model) + 1
            assert isinstance(error, MODEL_FALLBACK_ERRORS)
            assert not after.tried
        elif delay_s == 0.0:
            # A service that is gone gets no more work by it, so it costs no budget.
            elsewhere += not isinstance(error, LOST_SERVICE_ERRORS)
            assert isinstance(error, FAILOVER_ERRORS)
            assert after.tried == {*tried, service} < set(services)
        else:
            tried_again += not isinstance(error, errors.CircuitOpen)
            assert delay_s > 0.0
            assert error.retryable or isinstance(error, errors.CircuitOpen)
    assert attempts <= len(models) * (len(services) + retries)
    assert elsewhere + tried_again <= budget


@pytest.mark.parametrize("make", KINDS)
def test_without_options_every_failure_is_final(
    make: Callable[[], errors.FoundryError],
) -> None:
    (service,), after = recovery(retries=0)
    assert after.get_next_delay_s(make(), service, FOREVER) is None
