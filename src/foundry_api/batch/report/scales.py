"""Where values lie on a plot, and which of them are written beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Scale", "log_ticks", "ticks", "time_ticks"]

STEPS = (1, 2, 5, 10)
TIME_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200)
DAY_S = 86_400
LOG_STEPS = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Scale:
    """Takes values to places.

    Attributes:
        low: The value at the begin.
        high: The value at the end.
        begin: Its place.
        end: Its place.
        logarithmic: Whether equal factors are equally far apart.
    """

    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high = self._measure(self.low), self._measure(self.high)
        share = (self._measure(value) - low) / (high - low) if high > low else 0.0
        return self.begin + share * (self.end - self.begin)

    def _measure(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def ticks(highest: float, wanted: int = 4) -> list[float]:
    """Round values from 0, the last one at or above the highest."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in STEPS if each * power >= rough * (1 - 1e-9))
    return [round(place * step, 12) for place in range(math.ceil(highest / step - 1e-9) + 1)]


def time_ticks(longest_s: float, wanted: int = 8) -> list[float]:
    """Times from 0 that people count in, none beyond the longest."""
    days = (days * DAY_S for days in range(1, 1 + math.ceil(longest_s / DAY_S)))
    fitting = (step for step in (*TIME_STEPS_S, *days) if longest_s <= step * wanted)
    step = next(fitting, DAY_S)
    return [float(place * step) for place in range(int(longest_s / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade between two values, both included."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = (step * 10.0**power for power in powers for step in LOG_STEPS)
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
