"""A hill climber finds the number of concurrent calls with the highest throughput."""

from __future__ import annotations

import math

__all__ = ["HillClimber"]

# With these exponents, 50 % more calls in flight must give 3 % more throughput, because they raise
# the latency of every call; a third fewer may give 2 % less, which is within the measuring error.
MIN_GAIN_UP = 0.075
MIN_GAIN_DOWN = 0.05
# Outside of these a single window decides; else TRIAL_WINDOWS do.
CLEAR_GAIN = 1.25
CLEAR_LOSS = 0.85
TRIAL_WINDOWS = 2

# The step to a neighbouring limit; halved each time both neighbours are worse.
MAX_STEP = 1.5
MIN_STEP = 1.1
# Windows between two trials while nothing changes: fewer than one window in 30 is a trial.
MAX_WINDOWS_BETWEEN_TRIALS = 64
# When the rate leaves the average by this factor, up or down, the machine or the load has changed.
CHANGE_FACTOR = 0.7
# Weight of the earlier windows in the average rate.
AVERAGE_WEIGHT = 0.7


class HillClimber:
    """Tries a neighbouring limit now and then, and keeps it if the throughput is better.

    Attributes:
        limit: The limit to use: the best one known, or one on trial.
    """

    # It compares tokens per second, not the duration of calls, because answers differ in length.
    def __init__(self, minimum: int, initial: int, maximum: int) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._best = self.limit = initial
        self._average_rate: float | None = None
        self._trial_rates: list[float] = []
        self._is_upward = True
        self._failed_trials = 0
        self._step = MAX_STEP
        self._windows_between_trials = 1
        self._windows_to_trial = 1  # until the next trial

    @property
    def steady_rate(self) -> float | None:
        """Tokens per second at the best limit; None before the first measurement."""
        return self._average_rate

    def add_window(self, rate: float) -> None:
        """Take the tokens per second of one window at the present limit."""
        if self.limit != self._best:
            self._trial_rates.append(rate)
            self._evaluate_trial()
            return
        average = self._average_rate or rate
        if not CHANGE_FACTOR <= rate / average <= 1 / CHANGE_FACTOR:
            average, self._step = rate, MAX_STEP
            self._windows_between_trials = self._windows_to_trial = 1
        self._average_rate = AVERAGE_WEIGHT * average + (1 - AVERAGE_WEIGHT) * rate
        self._windows_to_trial -= 1
        if self._windows_to_trial <= 0:
            self._start_trial()

    def _start_trial(self) -> None:
        self._trial_rates = []
        if self._is_upward:
            self.limit = min(self._maximum, math.ceil(self._best * self._step))
        else:
            self.limit = max(self._minimum, math.floor(self._best / self._step))
        if self.limit == self._best:  # already at the minimum or the maximum
            self._fail_trial()

    def _evaluate_trial(self) -> None:
        trial_rate = sum(self._trial_rates) / len(self._trial_rates)
        gain = trial_rate / (self._average_rate or 1.0)
        if len(self._trial_rates) < TRIAL_WINDOWS and CLEAR_LOSS < gain < CLEAR_GAIN:
            return
        min_gain = MIN_GAIN_UP if self._is_upward else MIN_GAIN_DOWN
        if gain >= (self.limit / self._best) ** min_gain:
            self._best = self.limit
            self._average_rate = trial_rate
            self._failed_trials = 0
            self._windows_between_trials = self._windows_to_trial = 1
        else:
            self._fail_trial()

    def _fail_trial(self) -> None:
        """Return to the best limit; after a failure in both directions, wait longer."""
        self.limit = self._best
        self._is_upward = not self._is_upward
        self._failed_trials += 1
        if self._failed_trials % 2 == 0:
            self._windows_between_trials = min(
                MAX_WINDOWS_BETWEEN_TRIALS, self._windows_between_trials * 2
            )
            self._step = max(MIN_STEP, (1 + self._step) / 2)
        self._windows_to_trial = self._windows_between_trials
