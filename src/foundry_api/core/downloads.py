"""Progress of model downloads, with speed, remaining time and detection of stalls."""

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

# A download fails after this long without data. It is generous because the service contacts several
# servers before the first byte.
STALL_S = 120.0

WINDOW_S = 20.0  # the speed is an average over this window
MIN_WINDOW_S = 0.1
MIN_SPEED = 1e-9  # percent per second; slower than this has no useful remaining time

# A resumed download jumps to where it stopped. So the first second does not count.
RATE_SETTLE_S = 1.0

COMPLETE = 100.0
MAX_MB = 1e12  # a larger size is taken for a catalog error


class DownloadProgress(Result, msgspec.Struct, frozen=True, kw_only=True):
    """Progress of a download. Sizes are in MiB (2**20 bytes).

    Attributes:
        percent: 0 to 100. Never decreases.
        done_mb: Downloaded size, or None if the total size is unknown.
        total_mb: Total size, or None if the catalog has none.
        mb_per_s: Average speed of the last 20 seconds, or None at the start and if the size is
            unknown.
        remaining_s: Estimated seconds until the end, or None without a speed.
    """

    percent: float
    done_mb: float | None = None
    total_mb: float | None = None
    mb_per_s: float | None = None
    remaining_s: float | None = None


class ProgressMeter:
    """Turns the percentages of a download into `DownloadProgress`."""

    def __init__(
        self, total_mb: float | None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._total_mb = total_mb if total_mb and 0 < total_mb < MAX_MB else None
        self._monotonic = monotonic
        self._started_at = monotonic()
        self._percent = 0.0
        self._samples: deque[tuple[float, float]] = deque()  # (time, percent)

    def report(self, percent: float) -> DownloadProgress:
        """Return the progress. NaN, and a percentage lower than the last, count as no progress."""
        if percent > self._percent:
            self._percent = min(percent, COMPLETE)
        now, samples = self._monotonic(), self._samples
        if now - self._started_at <= RATE_SETTLE_S:
            samples.clear()
        samples.append((now, self._percent))
        while len(samples) > 2 and now - samples[1][0] >= WINDOW_S:  # noqa: PLR2004 - both ends
            samples.popleft()
        (begin, begin_percent), (end, end_percent) = samples[0], samples[-1]
        speed: float | None = None  # percent per second
        if end - begin >= MIN_WINDOW_S:
            speed = (end_percent - begin_percent) / (end - begin)
            speed = speed if speed > MIN_SPEED else 0.0
        return DownloadProgress(
            percent=self._percent,
            done_mb=self._to_mb(self._percent),
            total_mb=self._total_mb,
            mb_per_s=None if speed is None else self._to_mb(speed),
            remaining_s=(COMPLETE - self._percent) / speed if speed else None,
        )

    def _to_mb(self, percent: float) -> float | None:
        return None if self._total_mb is None else self._total_mb * percent / COMPLETE


async def with_stall_timeout(
    steps: AsyncGenerator[float, None], *, model: str, stall_s: float = STALL_S
) -> AsyncGenerator[float, None]:
    """Yield the percentages of `steps`; raise DownloadFailed after `stall_s` without one.

    A repeated percentage means that data arrives. Closing this generator closes `steps`.
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
                if not scope.expired():  # raised by the download itself
                    raise
                raise DownloadFailed(
                    f"no data was received for {stall_s:g} s, after {percent:.0f}% of the download",
                    hint="Check the network and pull again: the download resumes where it stopped.",
                    model=model,
                ) from error
            yield percent
    finally:
        await steps.aclose()


async def iter_progress(
    download: Callable[[Callable[[DownloadProgress], object]], Coroutine[None, None, object]],
) -> AsyncGenerator[DownloadProgress]:
    """Yield the progress of a download that reports it to a callback.

    Leaving the loop early cancels the download.
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
