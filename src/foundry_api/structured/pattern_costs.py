"""Estimate how long the regular expressions of a schema may take."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from foundry_api.structured.json_values import iter_values
from foundry_api.types.values import is_object

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MAX_PATTERN_S", "PatternCosts"]

# The worst case of a pattern on one text, and of all patterns on all texts of a value. More steps
# are left to a child process.
MAX_STEPS = 1_000_000
MAX_TOTAL_STEPS = 20_000_000

# Seconds for a child process that only finds out whether this process can do the same work.
MAX_PATTERN_S = 2.0

_PARSER: Any = getattr(re, "_parser")  # noqa: B009 - the only way to read a pattern's structure
_REPEATS = frozenset({"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"})


class PatternCosts:
    """The patterns of a schema; false if it has none."""

    def __init__(self, schema: Any) -> None:
        patterns: list[str] = []
        for value in iter_values(schema):
            if is_object(value):
                if isinstance(pattern := value.get("pattern"), str):
                    patterns.append(pattern)
                if is_object(named := value.get("patternProperties")):
                    patterns.extend(named)
        self._costs = [_PatternCost(pattern) for pattern in dict.fromkeys(patterns)]

    def __bool__(self) -> bool:
        return bool(self._costs)

    def may_take_long(self, value: Any) -> bool:
        """Check whether matching the patterns with all texts of a value may take long."""
        if not self._costs:
            return False
        texts: list[str] = []
        for item in iter_values(value):
            if isinstance(item, str):
                texts.append(item)
            elif is_object(item):
                texts.extend(item)
        lengths = Counter(map(len, texts))
        total = 0.0
        for cost in self._costs:
            for length, count in lengths.items():
                steps = cost.estimate_steps(length)
                if steps > MAX_STEPS:
                    return True
                total += steps * count
        return total > MAX_TOTAL_STEPS


class _PatternCost:
    """A rough upper bound for the steps of a backtracking matcher."""

    def __init__(self, pattern: str) -> None:
        # The bound is length ** exponent * 2 ** branches; exponential in the length for repeats
        # within repeats.
        self._exponent = 0
        self._branches = 0
        self._is_nested = False
        try:
            parsed = _PARSER.parse(pattern)
        except (re.error, RecursionError, OverflowError):
            self._is_nested = True
            return
        if not pattern.startswith(("^", r"\A")):
            self._exponent += 1  # it is tried at each position
        self._analyze(parsed, in_repeat=False)

    def estimate_steps(self, length: int) -> float:
        if self._is_nested:
            return 2.0 ** min(length, 1000)
        return float(max(length, 2)) ** min(self._exponent, 30) * 2.0 ** min(self._branches, 100)

    def _analyze(self, parsed: Iterable[Any], *, in_repeat: bool) -> None:
        for code, argument in parsed:
            name = str(code)
            if name in _REPEATS:
                low, high, inner = argument
                # A fixed number of repeats leaves the matcher no choice.
                if int(low) != int(high):
                    self._is_nested = self._is_nested or in_repeat
                    if int(high) - int(low) == 1:
                        self._branches += 1
                    else:
                        self._exponent += 1
                self._analyze(inner, in_repeat=True)
            elif name == "BRANCH":
                self._branches += 1
                self._is_nested = self._is_nested or in_repeat
                branches: Any = argument[1]
                for branch in branches:
                    self._analyze(branch, in_repeat=in_repeat)
            elif name == "GROUPREF":
                self._exponent += 1
            else:
                parts = cast("Any", argument if isinstance(argument, tuple) else (argument,))
                for part in parts:
                    if isinstance(part, _PARSER.SubPattern):
                        self._analyze(part, in_repeat=in_repeat)
