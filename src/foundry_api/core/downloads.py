"""Downloads as a caller sees them: how far, how fast, and how long still."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from foundry_api.types.errors import DownloadFailed
from foundry_api.types.serialization import Result

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

__all__ = ["STALL_S", "DownloadProgress", "ProgressMeter", "iter_progress", "with_stall_timeout"]

STALL_S = 120.0
"""So long a download may bring nothing. Before its first part it waits for several servers."""

WINDOW_S = 20.0
"""Over so long the speed is averaged."""

MIN_WINDOW_S = 0.1
MIN_SPEED = 1e-9
"""Percent a second: three thousand years are no time to tell."""

RATE_SETTLE_S = 1.0
"""What is reported before that was there already: a download that goes on starts with a jump."""

COMPLETE = 100.0
MAX_MB = 1e12
"""What is larger is no size."""


class DownloadProgress(Result, msgspec.Struct, frozen=True, kw_only=True):
    """How far a download is. Sizes are in units of 2**20 bytes.

    Attributes:
        percent: 0 to 100; it never falls.
        done_mb: What is here; None where the size is not known.
        total_mb: What there is to get; None where the catalog does not tell.
        mb_per_s: What came of late, averaged; None at first, and where the size is not known.
        remaining_s: Seconds until it is here at that speed; None while nothing comes.
    """

    percent: float
    done_mb: float | None = None
    total_mb: float | None = None
    mb_per_s: float | None = None
    remaining_s: float | None = None


class ProgressMeter:
    """Makes progress of percentages.

    Args:
        total_mb: What there is to get; None if unknown.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self, total_mb: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total_mb = total_mb if total_mb and 0 < total_mb < MAX_MB else None
        self._clock = clock
        self._started = clock()
        self._percent = 0.0
        self._seen: deque[tuple[float, float]] = deque()

    def report(self, percent: float) -> DownloadProgress:
        """Progress, once so much is here. What is no percentage, or less than before, is not more.

        Args:
            percent: 0 to 100.
        """
        if percent > self._percent:
            self._percent = min(percent, COMPLETE)
        self._remember(self._clock())
        speed = self._speed()
        return DownloadProgress(
            percent=self._percent,
            done_mb=self._megabytes(self._percent),
            total_mb=self._total_mb,
            mb_per_s=None if speed is None else self._megabytes(speed),
            remaining_s=(COMPLETE - self._percent) / speed if speed else None,
        )

    def _remember(self, now: float) -> None:
        if now - self._started <= RATE_SETTLE_S:
            self._seen.clear()
        self._seen.append((now, self._percent))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW_S:  # noqa: PLR2004 - both ends
            self._seen.popleft()

    def _speed(self) -> float | None:
        """Percent a second over the window; None before there is one, and for one too short."""
        (begin, before), (end, percent) = self._seen[0], self._seen[-1]
        if end - begin < MIN_WINDOW_S:
            return None
        speed = (percent - before) / (end - begin)
        return speed if speed > MIN_SPEED else 0.0

    def _megabytes(self, percent: float) -> float | None:
        return None if self._total_mb is None else self._total_mb * percent / COMPLETE


async def with_stall_timeout(
    steps: AsyncGenerator[float, None], *, model: str, stall_s: float = STALL_S
) -> AsyncGenerator[float, None]:
    """The steps of a download, as long as they come.

    Args:
        steps: Percent; the same percent again says that bytes come. They are closed with this.
        model: What is downloaded.
        stall_s: Seconds that may pass without a step.

    Raises:
        DownloadFailed: None came for so long.
    """
    percent = 0.0
    try:
        while True:
            scope = asyncio.timeout(stall_s)
            try:
                async with scope:
                    percent = await anext(steps)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                if not scope.expired():
                    raise
                raise DownloadFailed(
                    f"nothing came for {stall_s:g} s, with {percent:.0f}% here",
                    hint="Look at the network, and pull again: that goes on where this stopped.",
                    model=model,
                ) from error
            yield percent
    finally:
        await steps.aclose()


async def iter_progress(
    download: Callable[[Callable[[DownloadProgress], object]], Coroutine[None, None, object]],
) -> AsyncGenerator[DownloadProgress]:
    """The progress of a download that tells it to a callback. Leaving early cancels the download.

    Args:
        download: Downloads, and calls what it is given at each step.
    """
    steps: asyncio.Queue[DownloadProgress | None] = asyncio.Queue()
    task = asyncio.create_task(download(steps.put_nowait))
    task.add_done_callback(lambda _: steps.put_nowait(None))
    try:
        while (step := await steps.get()) is not None:
            yield step
        await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
