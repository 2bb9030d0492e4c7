"""The hill climber finds the best limit for simulated engines."""

from __future__ import annotations

import random
import statistics
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.resilience.hill_climber import HillClimber

if TYPE_CHECKING:
    from collections.abc import Callable

    Curve = Callable[[int], float]

MAXIMUM = 256
LIMITS = range(1, MAXIMUM + 1)


def serial(limit: int) -> float:
    """An engine that runs one call at a time, like the CPU builds of SDK 1.x."""
    return 1000.0 / (1 + 0.001 * (limit - 1))


def two_cores(limit: int) -> float:
    """The demo model on two cores, where more than a few calls gain nothing."""
    return 4300.0 * limit / (limit + 0.35) / (1 + 0.0004 * limit)


def batching(limit: int) -> float:
    """A GPU that runs 48 calls nearly as fast as one, and degrades beyond."""
    return 50.0 * min(limit, 48) / (1 + max(0, limit - 48) / 48)


def climbed(
    curve: Curve, windows: int, noise: float = 0.0, seed: int = 11
) -> tuple[HillClimber, list[int]]:
    dice = random.Random(seed)  # noqa: S311 - dice, no secret
    climb = HillClimber(1, 2, MAXIMUM)
    limits: list[int] = []
    for _ in range(windows):
        limits.append(climb.limit)
        climb.add_window(curve(climb.limit) * dice.uniform(1 - noise, 1 + noise))
    return climb, limits


def start_trial(climb: HillClimber, rate: float) -> None:
    """Add windows until the first trial begins."""
    initial = climb.limit
    while climb.limit == initial:
        climb.add_window(rate)


def share(curve: Curve, limits: list[int]) -> float:
    """Return the throughput at the limits, relative to the best one."""
    return statistics.mean(map(curve, limits)) / max(map(curve, LIMITS))


@pytest.mark.parametrize("curve", [serial, two_cores, batching])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_it_finds_the_best_limit_and_keeps_it(curve: Curve, noise: float) -> None:
    shares = [share(curve, climbed(curve, 800, noise, seed)[1][-200:]) for seed in range(11)]
    assert statistics.median(shares) >= 0.94
    assert min(shares) >= 0.9


def test_it_does_not_raise_the_limit_without_gain() -> None:
    """More calls in flight raise the latency of every call."""
    _, limits = climbed(two_cores, 400)
    assert statistics.median(limits[-200:]) <= 12


def test_it_takes_few_windows() -> None:
    _, limits = climbed(batching, 60)
    assert share(batching, limits[-5:]) >= 0.8


def test_it_adapts_to_a_faster_engine() -> None:
    climb, _ = climbed(serial, 300)
    limits: list[int] = []
    for _ in range(200):
        limits.append(climb.limit)
        climb.add_window(batching(climb.limit) * 40)
    assert share(batching, limits[-100:]) >= 0.9


def test_it_adapts_to_a_slower_engine() -> None:
    climb, _ = climbed(batching, 300)
    limits: list[int] = []

    def crowded(limit: int) -> float:
        return 400.0 / (1 + 0.2 * abs(limit - 4))

    for _ in range(200):
        limits.append(climb.limit)
        climb.add_window(crowded(climb.limit))
    assert share(crowded, limits[-100:]) >= 0.8


def test_it_rests_at_the_best_limit() -> None:
    _, limits = climbed(two_cores, 800)
    usual = statistics.mode(limits[-400:])
    assert sum(limit != usual for limit in limits[-400:]) <= 400 / 20


@given(
    st.integers(1, 8),
    st.integers(0, 8),
    st.integers(0, 100),
    st.lists(st.floats(1e-3, 1e9), max_size=60),
)
def test_it_never_leaves_its_range(minimum: int, above: int, room: int, rates: list[float]) -> None:
    climb = HillClimber(minimum, minimum + above, minimum + above + room)
    for rate in rates:
        climb.add_window(rate)
        assert minimum <= climb.limit <= minimum + above + room


def test_a_pause_ends_a_comparison_over_time() -> None:
    """A window before a pause and one after it say nothing about the limits between them."""
    climb = HillClimber(1, 4, MAXIMUM)
    start_trial(climb, 1000.0)
    assert climb.limit == 8
    climb.pause()
    assert climb.limit == 4
    climb.add_window(9000.0)  # the engine has become faster
    climb.add_window(9000.0)
    assert climb.limit == 4


def test_the_first_windows_are_at_the_initial_limit() -> None:
    """They show the noise."""
    _, limits = climbed(two_cores, 3)
    assert limits == [2, 2, 4]


def test_one_window_is_not_enough_to_raise_the_limit() -> None:
    """Another program that ends at the start of a trial must not look like a gain."""
    climb = HillClimber(1, 4, MAXIMUM)
    start_trial(climb, 1000.0)
    limits: list[int] = []
    for _ in range(40):
        climb.add_window(2000.0)
        limits.append(climb.limit)
    assert limits[0] == 4  # compared once more
    assert max(limits[-10:]) <= 4


def test_a_lower_limit_is_tried_at_once_after_a_clear_loss() -> None:
    """A higher limit is clearly slower: this one may be too high as well."""
    climb = HillClimber(1, 16, MAXIMUM)
    start_trial(climb, 1000.0)
    climb.add_window(400.0)
    assert climb.limit == 16
    climb.add_window(1000.0)
    assert climb.limit == 8


def test_a_lower_limit_waits_after_a_trial_without_a_clear_loss() -> None:
    climb = HillClimber(1, 16, MAXIMUM)
    start_trial(climb, 1000.0)
    climb.add_window(900.0)
    limits: list[int] = []
    for _ in range(4):
        limits.append(climb.limit)
        climb.add_window(1000.0)
    assert limits == [16] * 4
