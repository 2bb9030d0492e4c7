"""Measure the progress and the speed of a batch."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from foundry_api.batch.engine import EngineState

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.batch.types import BatchLineResult

__all__ = ["BatchProgress", "Phase", "ProgressMeter"]

# In the phase "waiting", other runners have the remaining lines.
Phase = Literal["checking", "running", "waiting", "publishing"]

# Rates are averages over this window: long enough for answers of different lengths, short enough to
# show a change.
RATE_WINDOW_S = 30.0

RATE_STEP_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress:
    """The state of a batch at one moment."""

    phase: Phase
    done: int = 0  # answered lines; like `failed`, with those of earlier runs
    failed: int = 0
    shared: int = 0  # done lines that share the answer of an identical request
    total: int | None = None  # lines of the input; None before they are counted
    resumed: int = 0  # lines that were finished before this run
    elapsed_s: float = 0.0
    lines_per_s: float | None = None  # current rates; None before anything finished
    tokens_per_s: float | None = None
    engine: EngineState = field(default_factory=EngineState)
    read_bytes: int = 0  # read so far, while checking the input
    size_bytes: int | None = None  # None if unknown

    @property
    def finished(self) -> int:
        return self.done + self.failed

    @property
    def remaining(self) -> int | None:
        return None if self.total is None else max(self.total - self.finished, 0)

    @property
    def eta_s(self) -> float | None:
        """Seconds until the end at the current rate; None if unknown."""
        if self.remaining is None or not self.lines_per_s:
            return None
        return self.remaining / self.lines_per_s


class ProgressMeter:
    """Counts finished lines, and computes their rate."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        # The first three include earlier runs; the tokens are those of this run.
        self.done = self.failed = self.shared = self.resumed = self.tokens = 0
        self._lines = 0
        self._monotonic = monotonic
        self._started_at = monotonic()
        self._marks: deque[tuple[float, int, int]] = deque([(self._started_at, 0, 0)])

    @property
    def elapsed_s(self) -> float:
        return self._monotonic() - self._started_at

    @property
    def lines(self) -> int:
        """Lines that finished in this run."""
        return self._lines

    def resume(self, *, done: int, failed: int, shared: int) -> None:
        """Set the counts of earlier runs."""
        self.done, self.failed, self.shared = done, failed, shared
        self.resumed = done + failed

    def count(self, result: BatchLineResult) -> None:
        self.failed += result.failed
        self.done += not result.failed
        self.shared += result.shared and not result.failed
        self.tokens += 0 if result.shared else result.completion_tokens
        self._lines += 1

    def compute_rates(self) -> tuple[float, float] | None:
        """Return lines and tokens per second; None before anything finished."""
        now = self._monotonic()
        if now - self._marks[-1][0] >= RATE_STEP_S:
            self._marks.append((now, self._lines, self.tokens))
        while len(self._marks) > 1 and now - self._marks[1][0] >= RATE_WINDOW_S:
            self._marks.popleft()
        since, lines, tokens = self._marks[0]
        if self._lines == lines or now <= since:
            return None
        return (self._lines - lines) / (now - since), (self.tokens - tokens) / (now - since)

    def make_progress(
        self, phase: Phase, *, total: int | None = None, engine: EngineState | None = None
    ) -> BatchProgress:
        lines_per_s, tokens_per_s = self.compute_rates() or (None, None)
        return BatchProgress(
            phase=phase,
            done=self.done,
            failed=self.failed,
            shared=self.shared,
            total=total,
            resumed=self.resumed,
            elapsed_s=self.elapsed_s,
            lines_per_s=lines_per_s,
            tokens_per_s=tokens_per_s,
            engine=engine or EngineState(),
        )
