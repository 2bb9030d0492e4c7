"""How fast a batch was when: stretches of the time in which it ran."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from foundry_api.batch.figures import Moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foundry_api.batch.figures import RunFigures

__all__ = ["Second", "Timeline"]

MOST_MOMENTS = 240
SPANS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)


@dataclass(frozen=True, slots=True)
class Second:
    """What was finished in one second.

    Attributes:
        at: The second, since the epoch.
        lines: Lines finished, failed ones included.
        failed: Of these, the failed ones.
        prompt_tokens: Of the lines that an engine answered.
        completion_tokens: Of the lines that an engine answered.
    """

    at: int
    lines: int
    failed: int
    prompt_tokens: int
    completion_tokens: int


class Timeline:
    """The time in which a batch ran, without the gaps between its runs.

    Args:
        runs: In any order; they may overlap.
    """

    def __init__(self, runs: Iterable[RunFigures]) -> None:
        self._stretches = _united(runs)
        lengths = [end - begin for begin, end in self._stretches]
        self._before = [0.0, *accumulate(lengths)]

    @property
    def elapsed_s(self) -> float:
        """Seconds of work."""
        return self._before[-1]

    @property
    def span_s(self) -> int:
        """How long a stretch is so that there are not too many."""
        fitting = (span for span in SPANS_S if self.elapsed_s <= span * MOST_MOMENTS)
        return next(fitting, int(self.elapsed_s / MOST_MOMENTS) + 1)

    def moments(self, seconds: Iterable[Second]) -> tuple[Moment, ...]:
        """What was finished when. Stretches without anything are told, too.

        Args:
            seconds: Ascending; those in which nothing was finished may be left out.
        """
        span = self.span_s
        count = max(1, int(-(-self.elapsed_s // span)))
        sums = [[0, 0, 0, 0] for _ in range(count)]
        for second in seconds:
            place = min(count - 1, int(self.worked_at(second.at + 0.5) / span))
            told = (second.lines, second.failed, second.prompt_tokens, second.completion_tokens)
            sums[place] = [old + new for old, new in zip(sums[place], told, strict=True)]
        return tuple(self._moment(place * span, *each) for place, each in enumerate(sums))

    def _moment(
        self, at_s: float, lines: int, failed: int, prompt_tokens: int, completion_tokens: int
    ) -> Moment:
        return Moment(
            at_s=at_s,
            span_s=max(0.001, min(self.span_s, self.elapsed_s - at_s)),
            lines=lines,
            failed=failed,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )

    def worked_at(self, at: float) -> float:
        """The seconds of work before a moment; one between two runs counts to the one before."""
        for (begin, end), before in zip(self._stretches, self._before, strict=False):
            if at <= end:
                return before + max(0.0, at - begin)
        return self.elapsed_s


def _united(runs: Iterable[RunFigures]) -> Sequence[tuple[float, float]]:
    """The stretches of time in which at least one of them ran."""
    united: list[tuple[float, float]] = []
    for run in sorted(runs, key=lambda run: run.begun_at):
        if united and run.begun_at <= united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], run.ended_at))
        else:
            united.append((run.begun_at, max(run.begun_at, run.ended_at)))
    return united
