"""Retry delays and the retry budget."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from foundry_api.resilience.backoff import Backoff
from foundry_api.resilience.retry import (
    PAUSE,
    RETRY_AFTER_CEILING_S,
    Retry,
    RetryBudget,
    backoff_sleep,
)
from foundry_api.types import errors

HIGHEST = Backoff(0.1, 5.0, uniform=lambda _, high: high)


class BudgetMachine(RuleBasedStateMachine):
    """Compares the budget with integer arithmetic."""

    @initialize(capacity=st.integers(0, 5), deposit=st.integers(0, 150))
    def begin(self, capacity: int, deposit: int) -> None:
        self.budget = RetryBudget(capacity, deposit / 100)
        self.capacity = self.cents = capacity * 100
        self.deposit = deposit
        self.taken = self.successes = 0

    @rule(times=st.integers(1, 8))
    def succeed(self, times: int) -> None:
        for _ in range(times):
            self.budget.deposit()
        self.successes += times
        self.cents = min(self.capacity, self.cents + times * self.deposit)

    @rule()
    def take(self) -> None:
        could = self.budget.left >= 1
        assert self.budget.try_spend() is could
        self.taken += could
        self.cents -= 100 * could

    @invariant()
    def the_books_agree(self) -> None:
        assert self.budget.left == pytest.approx(self.cents / 100, abs=1e-9)

    @invariant()
    def an_outage_never_multiplies_the_load(self) -> None:
        assert 100 * self.taken <= self.capacity + self.successes * self.deposit + 1e-6


BudgetMachine.TestCase.settings = hypothesis_settings(max_examples=60)
TestBudget = BudgetMachine.TestCase


def retry(backoff: Backoff = HIGHEST) -> Retry:
    return Retry(3, backoff, RetryBudget())


def test_the_backoff_doubles_up_to_its_cap() -> None:
    error = errors.ServerError("x")
    delays = [retry().delay_s(error, failures) for failures in (1, 2, 3, 6, 7, 5000)]
    assert delays == [0.1, 0.2, 0.4, 3.2, 5.0, 5.0]


def test_the_jitter_varies_at_the_cap() -> None:
    """Otherwise clients at the cap would retry together."""
    dice = random.Random(7)  # noqa: S311 - dice, no secret
    delays = [
        retry(Backoff(0.1, 5.0, dice.uniform)).delay_s(errors.ServerError("x"), 99)
        for _ in range(1000)
    ]
    assert min(delays) < 0.1
    assert max(delays) > 4.9
    assert sum(delays) / len(delays) == pytest.approx(2.5, abs=0.15)


@pytest.mark.parametrize("kind", [errors.ServiceOverloaded, errors.CircuitOpen])
@given(asked_s=st.floats(0, 1e6))
def test_retry_after_is_respected_up_to_a_limit(
    kind: type[errors.ServiceOverloaded | errors.CircuitOpen], asked_s: float
) -> None:
    error = kind("x")
    error.retry_after_s = asked_s
    assert retry().delay_s(error, 1) == min(asked_s, RETRY_AFTER_CEILING_S) + 0.1


def test_without_retry_after_the_backoff_applies() -> None:
    assert retry().delay_s(errors.ServiceOverloaded("x"), 1) == 0.1


async def test_the_sleep_can_be_replaced_in_a_context() -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    before = PAUSE.set(wait)
    await backoff_sleep(3600)
    PAUSE.reset(before)
    assert waits == [3600]
