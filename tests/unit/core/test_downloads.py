"""Progress of downloads and detection of stalls."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.cli.downloads import format_progress
from foundry_api.core.downloads import DownloadProgress, ProgressMeter, with_stall_timeout
from foundry_api.types.errors import ConnectTimeout, DownloadFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable


class Clock:
    """A clock that moves only when a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def reported(
    steps: Iterable[tuple[float, float]], total_mb: float | None = 1000.0
) -> list[DownloadProgress]:
    """Return the reports of a meter for pairs of (seconds since the last one, percent)."""
    clock = Clock()
    meter = ProgressMeter(total_mb, monotonic=clock)
    seen: list[DownloadProgress] = []
    for after_s, percent in steps:
        clock.now += after_s
        seen.append(meter.report(percent))
    return seen


def test_steady_download_has_speed_and_remaining_time() -> None:
    *_, last = reported([(0, 0), *((1, percent) for percent in range(1, 41))])
    assert last.percent == 40
    assert (last.done_mb, last.total_mb) == (400, 1000)
    assert last.mb_per_s == pytest.approx(10)
    assert last.remaining_s == pytest.approx(60)


def test_resumed_part_does_not_count_as_speed() -> None:
    """A resumed download starts with a jump to where it stopped."""
    *_, last = reported([(0, 0), (0.1, 60), (5, 61), (5, 62)])
    assert last.mb_per_s == pytest.approx(2, rel=0.1)


def test_speed_is_a_recent_average() -> None:
    *_, last = reported(
        [(0, 0), *((1, p) for p in range(1, 51)), *((10, 50 + p) for p in (1, 2, 3))]
    )
    assert last.mb_per_s == pytest.approx(1, rel=0.3)


def test_without_data_the_speed_falls_and_there_is_no_remaining_time() -> None:
    seen = reported([(0, 0), (2, 10), *((2, 10) for _ in range(12))])
    speeds = [progress.mb_per_s for progress in seen[2:] if progress.mb_per_s is not None]
    assert speeds == sorted(speeds, reverse=True)
    assert seen[-1].mb_per_s == 0
    assert seen[-1].remaining_s is None


def test_without_a_size_there_is_a_remaining_time() -> None:
    *_, last = reported([(0, 0), (2, 10), (2, 20)], total_mb=None)
    assert (last.done_mb, last.total_mb, last.mb_per_s) == (None, None, None)
    assert last.remaining_s == pytest.approx(16)


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(allow_nan=True, allow_infinity=True))),
    st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1e6),
)
def test_progress_is_never_negative_never_nan_and_never_decreases(
    steps: list[tuple[float, float]], total_mb: float | None
) -> None:
    seen = reported(steps, total_mb)
    percents = [progress.percent for progress in seen]
    assert percents == sorted(percents)
    assert all(0 <= percent <= 100 for percent in percents)
    for progress in seen:
        for value in (progress.done_mb, progress.total_mb, progress.mb_per_s, progress.remaining_s):
            assert value is None or (math.isfinite(value) and value >= 0)


async def steps_of(*percents: float, then: Exception | None = None) -> AsyncGenerator[float, None]:
    for percent in percents:
        yield percent
    if then is not None:
        raise then
    await asyncio.Event().wait()


async def test_stalled_download_fails() -> None:
    steps = steps_of(0.0, 41.0)
    alive = with_stall_timeout(steps, model="phi:1", stall_s=0.01)
    assert [await anext(alive), await anext(alive)] == [0.0, 41.0]
    with pytest.raises(
        DownloadFailed, match=r"no data was received for 0.01 s, after 41%"
    ) as caught:
        await anext(alive)
    assert caught.value.model == "phi:1"
    assert "resumes where it stopped" in caught.value.hint
    with pytest.raises(StopAsyncIteration):
        await anext(steps)  # it was closed


async def test_timeout_of_the_connection_is_not_a_stall() -> None:
    steps = steps_of(then=ConnectTimeout("no connection within 5 s"))
    with pytest.raises(ConnectTimeout):
        await anext(with_stall_timeout(steps, model="phi:1", stall_s=9))


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (DownloadProgress(percent=0.0), "0%"),
        (
            DownloadProgress(
                percent=41.2, done_mb=1097, total_mb=2662.4, mb_per_s=12.04, remaining_s=130.4
            ),
            "41%, 1.1 GB of 2.6 GB, 12.0 MB/s, 2 min 10 s left",
        ),
        (DownloadProgress(percent=99.9, remaining_s=0.01), "99.90%, 1 s left"),
        (
            DownloadProgress(percent=100.0, done_mb=1, total_mb=1, remaining_s=0.0),
            "100%, 1 MB of 1 MB",
        ),
    ],
)
def test_progress_as_text(progress: DownloadProgress, words: str) -> None:
    assert format_progress(progress) == words
