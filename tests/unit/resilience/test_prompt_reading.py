"""How long reading a prompt takes, as estimated from other prompts."""

from __future__ import annotations

import pytest

from foundry_api.resilience.prompt_reading import (
    MAX_AGE_S,
    MIN_SAMPLES,
    PromptReading,
    PromptReadings,
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make_reading(
    *samples: tuple[int, int | None, float], clock: Clock | None = None
) -> PromptReading:
    reading = PromptReading(clock or Clock())
    for sample in samples:
        reading.record(*sample)
    return reading


def test_estimate_is_that_of_the_fastest_prompt_and_the_fewest_tokens() -> None:
    reading = make_reading((4000, 1000, 5.0), (4000, 800, 4.0), (3000, 1000, 9.0))
    estimate = reading.estimate(8000)
    assert estimate is not None
    assert estimate == (1600, 8.0)
    assert estimate.tokens_per_second == 200.0


def test_service_without_token_counts_has_an_estimate_in_seconds() -> None:
    estimate = make_reading(*[(4000, None, 4.0)] * MIN_SAMPLES).estimate(4000)
    assert estimate == (None, 4.0)
    assert estimate.tokens_per_second is None


def test_few_samples_are_enough_only_where_the_caller_says_so() -> None:
    reading = make_reading(*[(4000, 1000, 4.0)] * (MIN_SAMPLES - 1))
    assert reading.estimate(4000) is None
    assert reading.estimate(4000, min_samples=1) == (1000, 4.0)


@pytest.mark.parametrize("size_bytes", [0, 2000, 13_000])
def test_prompts_of_another_length_do_not_count(size_bytes: int) -> None:
    reading = make_reading(*[(4000, 1000, 4.0)] * MIN_SAMPLES)
    assert reading.estimate(size_bytes) is None


@pytest.mark.parametrize("sample", [(9000, 63, 1.0), (255, None, 1.0), (0, 100, 1.0), (900, 99, 0)])
def test_short_prompts_are_not_measured(sample: tuple[int, int | None, float]) -> None:
    assert make_reading(sample).is_empty


def test_old_samples_do_not_count() -> None:
    clock = Clock()
    reading = make_reading(*[(4000, 1000, 4.0)] * MIN_SAMPLES, clock=clock)
    clock.now = MAX_AGE_S + 1
    assert reading.estimate(4000) is None


def test_short_prompts_do_not_displace_long_ones() -> None:
    reading = make_reading(*[(8000, 2000, 4.0)] * MIN_SAMPLES, *[(1000, 250, 1.0)] * 1000)
    assert reading.estimate(8000) == (2000, 4.0)


def test_models_are_measured_separately() -> None:
    readings = PromptReadings()
    readings.for_model("a").record(4000, 1000, 4.0)
    assert readings.for_model("b").is_empty
    assert not readings.for_model("a").is_empty
