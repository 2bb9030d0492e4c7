"""A hill climber finds the number of concurrent calls with the highest throughput, under noise.

The throughput of an engine varies: calls differ, other programs use the CPUs, a garbage collection
stops a process. The climber compares two limits in turn (best, candidate, best, candidate, ...)
until the difference exceeds the noise that it has measured, or until it has seen enough.
"""

from __future__ import annotations

import math
import statistics

__all__ = ["HillClimber"]

# With these exponents, twice as many calls in flight must give 3.5 % more throughput, because
# they raise the latency of every call; half as many may give 2 % less. A small step up needs more,
# because many of them that gain nothing add up.
MIN_GAIN_UP = 0.05
MIN_STEP_GAIN_UP = 0.02
MIN_GAIN_DOWN = 0.03
# A trial fails when its gain is this many standard errors below the minimum, and succeeds when it
# is that many above. Without evidence a higher limit fails soon, and a lower one is tried for long:
# throughput being equal, fewer calls are better.
FAIL_ERRORS_UP = 0.5
FAIL_ERRORS_DOWN = 0.7
SUCCEED_ERRORS = 2.0
# A success takes two pairs of windows, because the machine may have changed between two windows.
MIN_PAIRS = 2
# After the most pairs, a trial ends in any case. A higher limit then succeeds with a gain that is
# this many standard errors above the minimum; a lower one with the minimum.
MAX_PAIRS_UP = 16
MAX_PAIRS_DOWN = 8
END_ERRORS_UP = 1.0

# Standard deviation of the logarithm of a window's rate: before it was measured, and at least.
INITIAL_NOISE = 0.15
MIN_NOISE = 0.005
# Standard deviation of one of two normal values, relative to their mean absolute difference.
DEVIATION_PER_DIFFERENCE = math.sqrt(math.pi) / 2
# The initial noise counts as this many samples; later, a new sample has at least this weight.
INITIAL_NOISE_SAMPLES = 3
MIN_SAMPLE_WEIGHT = 0.1
# Weight of the earlier windows in the average rate.
AVERAGE_WEIGHT = 0.7

# The step to a neighbouring limit; reduced each time both neighbours are worse.
MAX_STEP = 2.0
MIN_STEP = 1.15
# Windows before the first trial: the least that show the noise.
WINDOWS_BEFORE_FIRST_TRIAL = 2
# Windows between two trials: at first, and while nothing changes.
FIRST_WINDOWS_BETWEEN_TRIALS = 4
MAX_WINDOWS_BETWEEN_TRIALS = 128
# When two windows in a row leave the average by this factor, up or down, and by this many standard
# deviations, the machine or the load has changed.
CHANGE_FACTOR = 0.7
CHANGE_DEVIATIONS = 3.0


class HillClimber:
    """Tries a neighbouring limit now and then, and keeps it if the throughput is better.

    Attributes:
        limit: The limit to use: the best one known, or one on trial.
    """

    # It compares tokens per second, not the duration of calls, because answers differ in length.
    # All rates are logarithms: noise is relative.
    def __init__(self, minimum: int, initial: int, maximum: int) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._best = self.limit = self._candidate = initial
        self._average: float | None = None
        self._noise = INITIAL_NOISE
        self._noise_samples = 0
        self._has_left_average = False
        self._previous: float | None = None  # the last window at the best limit
        self._gains: list[float] = []  # of the candidate over the window before
        self._is_upward = True
        self._failed_trials = 0
        self._step = MAX_STEP
        self._windows_between_trials = FIRST_WINDOWS_BETWEEN_TRIALS
        self._windows_to_trial = WINDOWS_BEFORE_FIRST_TRIAL  # until the next trial

    @property
    def steady_rate(self) -> float | None:
        """Tokens per second at the best limit; None before the first measurement."""
        return None if self._average is None else math.exp(self._average)

    def add_window(self, rate: float) -> None:
        """Take the tokens per second of one window at the present limit."""
        log_rate = math.log(rate)
        if self.limit != self._best:
            assert self._previous is not None  # noqa: S101 - a trial starts after a window
            self._gains.append(log_rate - self._previous)
            self._evaluate_trial()
            return
        previous, self._previous = self._previous, log_rate
        self._add_best(log_rate, previous)
        if self._candidate != self._best:  # a trial continues
            if previous is not None:
                # Compare the candidate with the windows before and after it.
                self._gains[-1] -= (log_rate - previous) / 2
            self.limit = self._candidate
            return
        self._windows_to_trial -= 1
        if self._windows_to_trial <= 0:
            self._start_trial()

    def pause(self) -> None:
        """Return to the best limit, because the next window may be much later."""
        self.limit = self._best
        self._previous = None

    def _add_best(self, log_rate: float, previous: float | None) -> None:
        """Take a window at the best limit: update the noise and the average, and notice changes."""
        if previous is not None:
            deviation = DEVIATION_PER_DIFFERENCE * abs(log_rate - previous)
            self._noise_samples += 1
            weight = max(MIN_SAMPLE_WEIGHT, 1 / (self._noise_samples + INITIAL_NOISE_SAMPLES))
            self._noise = max(MIN_NOISE, self._noise + weight * (deviation - self._noise))
        average = log_rate if self._average is None else self._average
        distance = abs(log_rate - average)
        has_left = distance > max(-math.log(CHANGE_FACTOR), CHANGE_DEVIATIONS * self._noise)
        if has_left and self._has_left_average:
            average, self._step = log_rate, MAX_STEP
            self._windows_between_trials = FIRST_WINDOWS_BETWEEN_TRIALS
            self._windows_to_trial = 1
        self._has_left_average = has_left
        self._average = AVERAGE_WEIGHT * average + (1 - AVERAGE_WEIGHT) * log_rate

    def _start_trial(self) -> None:
        if self._is_upward:
            candidate = min(self._maximum, max(self._best + 1, round(self._best * self._step)))
        else:
            candidate = max(self._minimum, min(self._best - 1, round(self._best / self._step)))
        if candidate == self._best:  # already at the minimum or the maximum
            self._fail_trial()
        else:
            self.limit = self._candidate = candidate
            self._gains = []

    def _evaluate_trial(self) -> None:
        """Keep the candidate, return to the best limit, or compare both once more."""
        pairs = len(self._gains)
        error = self._noise * math.sqrt(2 / pairs)
        log_step = math.log(self._candidate / self._best)
        if self._is_upward:
            minimum = max(MIN_STEP_GAIN_UP, MIN_GAIN_UP * log_step)
            fail_errors, end_errors, max_pairs = FAIL_ERRORS_UP, END_ERRORS_UP, MAX_PAIRS_UP
        else:
            minimum = MIN_GAIN_DOWN * log_step
            fail_errors, end_errors, max_pairs = FAIL_ERRORS_DOWN, 0.0, MAX_PAIRS_DOWN
        gain = statistics.median(self._gains)
        surplus = gain - minimum
        # Of two, the lower one: both must show the gain.
        lower_gain = statistics.median_low(self._gains)
        if lower_gain - minimum >= SUCCEED_ERRORS * error and pairs >= MIN_PAIRS:
            self._succeed(lower_gain)
        elif surplus < -fail_errors * error:
            self._fail_trial(is_clear=surplus < -SUCCEED_ERRORS * error)
        elif pairs < max_pairs:
            self.limit = self._best
        elif surplus >= end_errors * error:
            self._succeed(gain)
        else:
            self._fail_trial()

    def _succeed(self, gain: float) -> None:
        assert self._previous is not None  # noqa: S101 - a trial starts after a window
        self._best = self.limit = self._candidate
        self._average = self._previous = self._previous + gain
        self._failed_trials = 0
        self._windows_between_trials = FIRST_WINDOWS_BETWEEN_TRIALS
        self._windows_to_trial = 1

    def _fail_trial(self, *, is_clear: bool = False) -> None:
        """Return to the best limit; after a failure in both directions, wait longer."""
        self.limit = self._candidate = self._best
        self._is_upward = not self._is_upward
        self._failed_trials += 1
        if self._failed_trials % 2 == 0:
            self._windows_between_trials = min(
                MAX_WINDOWS_BETWEEN_TRIALS, self._windows_between_trials * 2
            )
            self._step = max(MIN_STEP, (1 + self._step) / 2)
        # If a higher limit is clearly slower, this one may be too high as well.
        self._windows_to_trial = (
            1 if is_clear and not self._is_upward else self._windows_between_trials
        )
