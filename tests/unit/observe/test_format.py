"""Formatting of numbers and times, and parsing of durations."""

from __future__ import annotations

import math
from datetime import datetime

import pytest

from foundry_api.observe.format import (
    format_age,
    format_bytes,
    format_count,
    format_duration,
    format_int,
    format_megabytes,
    format_percent,
    format_rate,
    format_time,
    parse_duration,
)
from foundry_api.types.errors import InvalidRequest


@pytest.mark.parametrize(
    ("seconds", "formatted"),
    [
        (0, "0 s"),
        (0.004, "4 ms"),
        (0.0042, "4.2 ms"),
        (12.3456, "12 s"),
        (180, "3 min"),
        (200_000, "2 d 8 h"),
        (0.85, "850 ms"),
        (1e-9, "0 s"),
        (0.00042, "0.42 ms"),
        (0.9996, "1 s"),
        (9.96, "10 s"),
        (59.96, "1 min"),
        (9_000, "2 h 30 min"),
        (1e9, "11,574 d 2 h"),
        (-200, "-3 min 20 s"),
        (math.nan, ""),
        (math.inf, ""),
        (1, "1 s"),
        (1.24, "1.2 s"),
        (45.4, "45 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (7_500, "2 h 5 min"),
        (7_229, "2 h"),
        (59.7, "1 min"),
        (86_399, "1 d"),
        (273_600, "3 d 4 h"),
        (None, ""),
    ],
)
def test_durations_have_at_most_two_units(seconds: float | None, formatted: str) -> None:
    assert format_duration(seconds) == formatted


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("0.5", 0.5),
        ("10m", 600),
        ("10 min", 600),
        ("2h", 7_200),
        ("1h30m", 5_400),
        ("1.5H", 5_400),
        ("1d 2h", 93_600),
    ],
)
def test_parse_duration(text: str, seconds: float) -> None:
    assert parse_duration(text, "within") == seconds


@pytest.mark.parametrize("text", ["", "soon", "10 x", "-5m", "0s", "1h30", "h", "1h or so", "inf"])
def test_error_names_an_invalid_duration(text: str) -> None:
    with pytest.raises(InvalidRequest, match="within is ") as refusal:
        parse_duration(text, "within")
    assert refusal.value.field == "within"
    assert "1h30m" in refusal.value.hint


@pytest.mark.parametrize(
    ("value", "formatted"), [(0, "0"), (0.254, "0.25"), (41.27, "41.3"), (2_310.4, "2,310")]
)
def test_rates_have_three_digits(value: float, formatted: str) -> None:
    assert format_rate(value) == formatted


@pytest.mark.parametrize(
    ("part", "total", "formatted"),
    [
        (0, 0, "0%"),
        (0, 10, "0%"),
        (1, 1_000_000, "0.01%"),
        (54, 100, "54%"),
        (999_999, 1_000_000, "99.99%"),
        (10, 10, "100%"),
    ],
)
def test_percentages(part: int, total: int, formatted: str) -> None:
    assert format_percent(part, total) == formatted


def test_thousands_separators() -> None:
    assert format_int(1_234_567) == "1,234,567"
    assert format_int(-1_234_567) == "-1,234,567"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_infinite_numbers(value: float) -> None:
    assert format_int(value) == str(value)


@pytest.mark.parametrize(
    ("size", "formatted"),
    [
        (None, ""),
        (math.nan, ""),
        (0, "0 B"),
        (1023, "1023 B"),
        (1023.6, "1 KB"),
        (3 * 2**20, "3 MB"),
        (1023.6 * 2**20, "1.0 GB"),
        (2662 * 2**20, "2.6 GB"),
        (2**50, "1,048,576.0 GB"),
        (-(2**20), "-1 MB"),
    ],
)
def test_sizes_have_the_largest_unit(size: float | None, formatted: str) -> None:
    assert format_bytes(size) == formatted
    assert format_megabytes(None if size is None else size / 2**20) == formatted


def test_ages_have_one_unit() -> None:
    ages = [format_age(seconds) for seconds in (-1, 59, 60, 7_199, 259_200)]
    assert ages == ["just now", "just now", "1 minute ago", "1 hour ago", "3 days ago"]


def test_unknown_rates_and_percentages_are_empty() -> None:
    assert [format_rate(None), format_rate(math.nan), format_percent(None)] == ["", "", ""]
    assert [format_rate(9.996), format_rate(99.96)] == ["10.0", "100"]
    assert [format_percent(140), format_percent(0.998, 1)] == ["140%", "99.80%"]


def test_counts_and_plurals() -> None:
    assert [format_count(n, "line") for n in (0, 1, 1_200)] == ["0 lines", "1 line", "1,200 lines"]
    assert [format_count(n, "line") for n in (-1, -1_200)] == ["-1 lines", "-1,200 lines"]


def test_times_have_a_time_zone() -> None:
    assert format_time(None) == ""
    # Near 1970 as well, where Windows cannot find the zone of a local time.
    for at in (0, 1, 1_700_000_000):
        assert datetime.fromisoformat(format_time(at)).timestamp() == at
