"""Sparklines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.cli.output import ASCII_BARS, BARS, format_sparkline, get_bars


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ([], 5, ""),
        ([None, None], 5, ""),
        ([0, 7], 2, "▁█"),
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, BARS),
        ([9, 9, 0, 7], 2, "▁█"),
        ([7], 4, "   █"),
        ([0, 0], 2, "▁▁"),
        ([7, None, 0], 4, " █ ▁"),
        ([1, 2], 0, ""),
    ],
)
def test_values_become_bars(values: list[float | None], width: int, expected: str) -> None:
    assert format_sparkline(values, width) == expected


def test_without_a_floor_the_lowest_value_is_the_lowest_bar() -> None:
    assert format_sparkline([100, 107], 2, floor=None) == "▁█"
    assert format_sparkline([100, 100], 2, floor=None) == "▁▁"


@given(st.lists(st.none() | st.floats(0, 1e12), max_size=50), st.integers(0, 40))
def test_a_graph_has_the_requested_width(values: list[float | None], width: int) -> None:
    line = format_sparkline(values, width)
    assert len(line) in {0, width}
    assert set(line) <= {*BARS, " "}


@pytest.mark.parametrize(
    ("encoding", "bars"),
    [("utf-8", BARS), ("ascii", ASCII_BARS), ("latin-1", ASCII_BARS), (None, ASCII_BARS)],
)
def test_a_terminal_without_unicode_gets_ascii_bars(encoding: str | None, bars: str) -> None:
    assert get_bars(encoding) == bars
