"""Integers that exactly one of several ranges allows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.structured.engine_schema import make_disjoint


def between(first: int, last: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": first, "maximum": last}


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 9)), min_size=1, max_size=4))
def test_result_is_in_exactly_one_range(drawn: list[tuple[int, int]]) -> None:
    ranges = [between(first, first + size) for first, size in drawn]
    left = make_disjoint(ranges)
    for number in range(-10, 20):
        before = [item for item in ranges if item["minimum"] <= number <= item["maximum"]]
        after = [item for item in left if item["minimum"] <= number <= item["maximum"]]  # type: ignore[index, operator]
        if left is not ranges:
            assert (len(after) == 1) == (len(before) == 1)
            assert len(after) <= 1


def test_overlap_is_excluded() -> None:
    assert make_disjoint([between(0, 20), between(10, 99)]) == [between(0, 9), between(21, 99)]


@pytest.mark.parametrize(
    "branches",
    [
        [between(0, 9), between(10, 99)],
        [between(0, 9), {"type": "string"}],
        [between(0, 9), {"type": "integer", "minimum": 5}],
        [between(0, 9), {**between(5, 7), "multipleOf": 2}],
        [between(0, 9), between(0, 9)],
        [between(0, 9), True],
    ],
)
def test_other_branches_are_unchanged(branches: list[Any]) -> None:
    assert make_disjoint(branches) is branches
