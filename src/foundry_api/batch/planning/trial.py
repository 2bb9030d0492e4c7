"""Running a sample, and seeing how fast that went."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from foundry_api.batch.planning.sampling import model_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from foundry_api.batch.engine import BatchEngine
    from foundry_api.batch.lines import Finished, Work

__all__ = ["Trial", "run_trial"]


@dataclass(frozen=True)
class Trial:
    """Lines that were run.

    Attributes:
        finished: Each with its work.
        wall_s: How long all took.
    """

    finished: tuple[tuple[Work, Finished], ...]
    wall_s: float

    @cached_property
    def concurrency(self) -> float:
        """How many lines were being answered at once, on average, while there were enough of them.

        At the end fewer and fewer are left; the time since the last one was begun does not count.
        """
        spans = [_span(finished) for _, finished in self.finished]
        if not spans:
            return 1.0
        begin, last_begun = min(spans)[0], max(spans)[0]
        busy = sum(min(end, last_begun) - start for start, end in spans if start < last_begun)
        return max(1.0, busy / (last_begun - begin)) if last_begun > begin else 1.0

    def seconds_of(self, finished: Finished) -> float:
        """How long a line kept the service busy: its share of the time, where others ran too."""
        return (finished.duration_s - finished.queued_s) / self.concurrency

    def by_model(self) -> dict[str, list[Finished]]:
        """What was finished of each model's lines."""
        answers: dict[str, list[Finished]] = {}
        for work, finished in self.finished:
            answers.setdefault(model_of(work), []).append(finished)
        return answers


def _span(finished: Finished) -> tuple[float, float]:
    """When a line was begun at the service, and when it ended."""
    return finished.at - (finished.duration_s - finished.queued_s), finished.at


async def run_trial(
    works: Sequence[Work],
    engine: BatchEngine,
    tell: Callable[[Finished], object],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Trial:
    """Run lines, as a batch would.

    Raises:
        FoundryError: As of the engine.
    """
    by_index = {work.line.index: work for work in works}
    finished: list[tuple[Work, Finished]] = []
    begun = clock()
    async with aclosing(engine.answers(_each(works))) as answers:
        async for answer in answers:
            finished.append((by_index[answer.index], answer))
            tell(answer)
    return Trial(tuple(finished), clock() - begun)


async def _each(works: Sequence[Work]) -> AsyncGenerator[Work]:
    for work in works:
        yield work
