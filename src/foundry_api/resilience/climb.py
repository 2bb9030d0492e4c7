"""How many calls in flight bring the most tokens a second: hill climbing that never quite ends."""

from __future__ import annotations

import math

__all__ = ["Climb"]

UP_WORTH = 0.075
"""Half as many calls again in flight have to bring 3 % more: every call pays with its latency."""

DOWN_WORTH = 0.05
"""A third less in flight may bring 2 % less, within what measuring can tell."""

CLEAR_GAIN = 1.25
CLEAR_LOSS = 0.85
"""Beyond these a single window decides."""

TRIAL_WINDOWS = 2
WIDEST_STEP = 1.5
NARROWEST_STEP = 1.1
"""Each time both neighbours were worse, it looks half as far."""

LONGEST_REST = 64
"""Windows between two trials when nothing changes: below one window in thirty is a trial."""

CHANGED = 0.7
"""A rate so far from the usual one, up or down, means that the machine or the load is another."""

MEMORY = 0.7
"""Share of the past in the usual rate."""


class Climb:
    """Tries a neighbouring limit now and then, and stays there if that is better.

    Answers differ in length, so it does not look at how long calls take, only at tokens a second.
    After trials that brought nothing it rests longer each time.

    Args:
        minimum: Lowest limit.
        initial: Where to begin.
        maximum: Highest limit.

    Attributes:
        limit: The limit to use now: the best one known, or one on trial.
    """

    def __init__(self, minimum: int, initial: int, maximum: int) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._best = self.limit = initial
        self._usual: float | None = None
        self._seen: list[float] = []
        self._up = True
        self._in_vain = 0
        self._step = WIDEST_STEP
        self._rest = 1
        self._left = 1

    @property
    def usual_rate(self) -> float | None:
        """Tokens a second at the best limit; None until it was measured."""
        return self._usual

    def measured(self, rate: float) -> None:
        """Take the tokens a second of one window at the present limit."""
        if self.limit != self._best:
            self._seen.append(rate)
            self._judge()
        else:
            self._settle(rate)

    def _settle(self, rate: float) -> None:
        usual = self._usual or rate
        if not CHANGED <= rate / usual <= 1 / CHANGED:
            usual, self._rest, self._left, self._step = rate, 1, 1, WIDEST_STEP
        self._usual = MEMORY * usual + (1 - MEMORY) * rate
        self._left -= 1
        if self._left <= 0:
            self._begin_trial()

    def _begin_trial(self) -> None:
        self._seen = []
        self.limit = self._neighbour()
        if self.limit == self._best:
            self._fail()

    def _neighbour(self) -> int:
        if self._up:
            return min(self._maximum, math.ceil(self._best * self._step))
        return max(self._minimum, math.floor(self._best / self._step))

    def _judge(self) -> None:
        gain = sum(self._seen) / len(self._seen) / (self._usual or 1.0)
        if len(self._seen) < TRIAL_WINDOWS and CLEAR_LOSS < gain < CLEAR_GAIN:
            return
        if gain >= (self.limit / self._best) ** (UP_WORTH if self._up else DOWN_WORTH):
            self._best = self.limit
            self._usual = sum(self._seen) / len(self._seen)
            self._in_vain, self._rest, self._left = 0, 1, 1
        else:
            self._fail()

    def _fail(self) -> None:
        """Go back and look the other way next; once both were in vain, look nearer, and rest."""
        self.limit = self._best
        self._up = not self._up
        self._in_vain += 1
        if self._in_vain % 2 == 0:
            self._rest = min(LONGEST_REST, self._rest * 2)
            self._step = max(NARROWEST_STEP, (1 + self._step) / 2)
        self._left = self._rest
