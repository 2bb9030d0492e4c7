"""Ranges of integers of which exactly one has to hold, as ranges that the engine can tell apart.

The engine takes `oneOf` for `anyOf` (probed on 2.2.1), so what lies in two ranges has to be left
out of both before it gets them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.structured.references import Schema

__all__ = ["told_apart"]

_KNOWN = frozenset({"description", "maximum", "minimum", "title", "type"})


class Range(NamedTuple):
    """The integers from the first to the last."""

    first: int
    last: int


def told_apart(branches: Sequence[Schema]) -> Sequence[Schema]:
    """The branches of a `oneOf` without what two of them allow, if all are ranges of integers."""
    ranges = [found for branch in branches if (found := _range(branch)) is not None]
    if len(ranges) < len(branches):
        return branches
    cuts = sorted({each.first for each in ranges} | {each.last + 1 for each in ranges})
    single = [Range(low, high - 1) for low, high in pairwise(cuts) if _holding(ranges, low) == 1]
    if not single or sum(map(_size, single)) == sum(map(_size, ranges)):
        return branches  # nothing is left, or nothing overlaps
    return [{"type": "integer", "minimum": each.first, "maximum": each.last} for each in single]


def _range(branch: Schema) -> Range | None:
    if isinstance(branch, bool) or branch.get("type") != "integer" or not branch.keys() <= _KNOWN:
        return None
    first, last = branch.get("minimum"), branch.get("maximum")
    if type(first) is not int or type(last) is not int or first > last:
        return None
    return Range(first, last)


def _holding(ranges: Sequence[Range], number: int) -> int:
    return sum(each.first <= number <= each.last for each in ranges)


def _size(each: Range) -> int:
    return each.last - each.first + 1
