"""Numbers and times as people read and write them."""

from __future__ import annotations

import pytest

from foundry_api.batch.words import number, parse_duration, percent, rate, spell
from foundry_api.errors import InvalidRequest


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (0.0042, "4.2 ms"),
        (0.85, "850 ms"),
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
def test_a_time_is_told_in_at_most_two_units(seconds: float | None, told: str) -> None:
    assert spell(seconds) == told


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
def test_a_time_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_duration(text, "within") == seconds


@pytest.mark.parametrize("text", ["", "soon", "10 x", "-5m", "0s", "1h30", "h", "1h or so", "inf"])
def test_what_is_no_time_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match="within is ") as refusal:
        parse_duration(text, "within")
    assert refusal.value.field == "within"
    assert "1h30m" in refusal.value.hint


@pytest.mark.parametrize(
    ("value", "told"), [(0, "0"), (0.254, "0.25"), (41.27, "41.3"), (2_310.4, "2,310")]
)
def test_a_rate_has_three_digits_or_all_of_the_whole_ones(value: float, told: str) -> None:
    assert rate(value) == told


@pytest.mark.parametrize(
    ("part", "whole", "told"),
    [
        (0, 0, "0%"),
        (0, 10, "0%"),
        (1, 1_000_000, "0.01%"),
        (54, 100, "54%"),
        (999_999, 1_000_000, "99.99%"),
        (10, 10, "100%"),
    ],
)
def test_a_share_is_all_or_nothing_only_where_it_is(part: int, whole: int, told: str) -> None:
    assert percent(part, whole) == told


def test_thousands_stand_apart() -> None:
    assert number(1_234_567) == "1,234,567"
