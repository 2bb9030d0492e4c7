"""How long reading a prompt takes, as estimated from other prompts."""

from __future__ import annotations

import pytest

from foundry_api.resilience.prompt_reading import (
    MAX_AGE_S,
    MIN_SAMPLES,
    UNKNOWN_SIZE,
    PromptReading,
    PromptReadings,
    PromptSize,
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def of_bytes(size_bytes: int) -> PromptSize:
    return PromptSize.of(["a" * size_bytes])


def make_reading(
    *samples: tuple[int, int | None, float], clock: Clock | None = None
) -> PromptReading:
    reading = PromptReading(clock or Clock())
    for size_bytes, tokens, duration_s in samples:
        reading.record(of_bytes(size_bytes), tokens, duration_s)
    return reading


def test_estimate_is_that_of_the_fastest_prompt_and_the_fewest_tokens() -> None:
    reading = make_reading((4000, 1000, 5.0), (4000, 800, 4.0), (3000, 1000, 9.0))
    estimate = reading.estimate(of_bytes(8000))
    assert estimate is not None
    assert estimate == (1600, 8.0)
    assert estimate.tokens_per_second == 200.0


def test_service_without_token_counts_has_an_estimate_in_seconds() -> None:
    estimate = make_reading(*[(4000, None, 4.0)] * MIN_SAMPLES).estimate(of_bytes(4000))
    assert estimate == (None, 4.0)
    assert estimate.tokens_per_second is None


def test_few_samples_are_enough_only_where_the_caller_says_so() -> None:
    reading = make_reading(*[(4000, 1000, 4.0)] * (MIN_SAMPLES - 1))
    assert reading.estimate(of_bytes(4000)) is None
    assert reading.estimate(of_bytes(4000), min_samples=1) == (1000, 4.0)


@pytest.mark.parametrize("size_bytes", [0, 2000, 13_000])
def test_prompts_of_another_length_do_not_count(size_bytes: int) -> None:
    reading = make_reading(*[(4000, 1000, 4.0)] * MIN_SAMPLES)
    assert reading.estimate(of_bytes(size_bytes)) is None


@pytest.mark.parametrize("sample", [(9000, 63, 1.0), (255, None, 1.0), (0, 100, 1.0), (900, 99, 0)])
def test_short_prompts_are_not_measured(sample: tuple[int, int | None, float]) -> None:
    assert make_reading(sample).is_empty


def test_old_samples_do_not_count() -> None:
    clock = Clock()
    reading = make_reading(*[(4000, 1000, 4.0)] * MIN_SAMPLES, clock=clock)
    clock.now = MAX_AGE_S + 1
    assert reading.estimate(of_bytes(4000)) is None


def test_short_prompts_do_not_displace_long_ones() -> None:
    reading = make_reading(*[(8000, 2000, 4.0)] * MIN_SAMPLES, *[(1000, 250, 1.0)] * 1000)
    assert reading.estimate(of_bytes(8000)) == (2000, 4.0)


def test_models_are_measured_separately() -> None:
    readings = PromptReadings()
    readings.for_model("a").record(of_bytes(4000), 1000, 4.0)
    assert readings.for_model("b").is_empty
    assert not readings.for_model("a").is_empty


ENGLISH = "The engine reads a prompt to its end, although nobody waits for the answer. "
GERMAN = "Größere Modelle lesen längere Anfragen natürlich auch bedeutend langsamer. "


@pytest.mark.parametrize(
    "dense",
    [
        "发动机会把提示读到底即使没有人在等待答案。",
        "Двигатель читает запрос до конца, хотя никто не ждёт ответа. ",
        "🙂🙃😉",
        "31415 92653 58979 32384 ",
        "TWFuIGlzIGRpc3Rpbmd1aXNoZWQsIG5vdCBvbmx5IGJ5IGhpcyByZWFzb24",
        '{"a":[1.5,-2],"b":{"c":null}},',
    ],
    ids=["chinese", "russian", "emoji", "digits", "base64", "json"],
)
def test_prompts_of_another_text_do_not_count(dense: str) -> None:
    """They take several times as long for each byte: the estimate would refuse other calls."""
    reading = PromptReading(Clock())
    size = PromptSize.of([dense * (4000 // len(dense.encode()))])
    for _ in range(MIN_SAMPLES):
        reading.record(size, 4000, 16.0)
    assert reading.estimate(PromptSize.of([ENGLISH * 50])) is None
    assert reading.estimate(size) is not None


def test_prompts_of_a_similar_text_count() -> None:
    reading = PromptReading(Clock())
    for _ in range(MIN_SAMPLES):
        reading.record(PromptSize.of([GERMAN * 50]), 1000, 4.0)
    assert reading.estimate(PromptSize.of([ENGLISH * 25, ENGLISH * 25])) is not None


def test_an_unknown_size_has_no_estimate() -> None:
    reading = make_reading(*[(4000, 1000, 4.0)] * MIN_SAMPLES)
    reading.record(UNKNOWN_SIZE, 1000, 4.0)
    assert reading.estimate(UNKNOWN_SIZE, min_samples=1) is None
