"""How far a batch is, and how fast it goes."""

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

Phase = Literal["checking", "running", "waiting", "publishing"]

RATE_WINDOW_S = 30.0
"""Rates are of so long: long enough for answers of differing lengths, short enough to see a
change."""

RATE_STEP_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress:
    """A batch at one moment.

    Attributes:
        phase: `checking` the input, `running`, `waiting` for runners that share the work, or
            `publishing` the output.
        done: Lines that were answered, in earlier runs too.
        failed: Lines that failed for good, in earlier runs too.
        shared: Of the answered ones, those that took the answer of an identical request.
        total: Lines of the input; None while that is not known.
        resumed: Lines that were finished before this run.
        elapsed_s: Seconds since the run began.
        lines_per_s: Lines finished a second, lately; None before any did.
        tokens_per_s: Tokens of answers a second, lately; None as above.
        engine: What the engine does.
        read_bytes: While checking, how much was read.
        size_bytes: While checking, how much there is; None where that is not known.
    """

    phase: Phase
    done: int = 0
    failed: int = 0
    shared: int = 0
    total: int | None = None
    resumed: int = 0
    elapsed_s: float = 0.0
    lines_per_s: float | None = None
    tokens_per_s: float | None = None
    engine: EngineState = field(default_factory=EngineState)
    read_bytes: int = 0
    size_bytes: int | None = None

    @property
    def finished(self) -> int:
        """Lines that need nothing more."""
        return self.done + self.failed

    @property
    def remaining(self) -> int | None:
        """Lines that are not finished; None while the total is not known."""
        return None if self.total is None else max(self.total - self.finished, 0)

    @property
    def eta_s(self) -> float | None:
        """Seconds that the rest takes at the speed of lately; None while that is not known."""
        if self.remaining is None or not self.lines_per_s:
            return None
        return self.remaining / self.lines_per_s


class ProgressMeter:
    """Counts what finishes, and how fast.

    Args:
        clock: Seconds of a monotonic clock.

    Attributes:
        done: Lines answered, those of earlier runs included.
        failed: Lines failed, those of earlier runs included.
        shared: Answered with the answer of an identical request.
        resumed: Lines finished before.
        tokens: Tokens of the answers since it began.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.done = self.failed = self.shared = self.resumed = self.tokens = 0
        self._lines = 0
        self._monotonic = monotonic
        self._started_at = monotonic()
        self._marks: deque[tuple[float, int, int]] = deque([(self._started_at, 0, 0)])

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return self._monotonic() - self._started_at

    @property
    def lines(self) -> int:
        """Lines finished since it began."""
        return self._lines

    def resume(self, *, done: int, failed: int, shared: int) -> None:
        """So many were finished before."""
        self.done, self.failed, self.shared = done, failed, shared
        self.resumed = done + failed

    def count(self, result: BatchLineResult) -> None:
        """One more line is finished."""
        self.failed += result.failed
        self.done += not result.failed
        self.shared += result.shared and not result.failed
        self.tokens += 0 if result.shared else result.completion_tokens
        self._lines += 1

    def compute_rates(self) -> tuple[float, float] | None:
        """Lines and tokens a second, lately; None before anything finished."""
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
        """How far it is now."""
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
