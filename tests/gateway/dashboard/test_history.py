"""The points behind the plots."""

from __future__ import annotations

import stat
import sys
from typing import TYPE_CHECKING

import pytest

from foundry_api.gateway.history import WINDOWS, Gauges, History
from foundry_api.gateway.history_file import HistoryFile
from foundry_api.testing import FakeService
from gateway.serving import call, make_body, serve

if TYPE_CHECKING:
    from pathlib import Path


def make_gauges(tokens: int = 0) -> Gauges:
    return Gauges(tokens=tokens, running=1, waiting=2, memory_bytes=3)


def test_a_point_has_what_happened_in_its_second() -> None:
    history = History()
    for number in range(10):
        history.count_request(has_failed=number == 0)
        history.add_first_token(0.1 * (number + 1))
    points = history.advance(1.0, 1000.0, make_gauges(50))
    assert points.keys() == {"15m"}
    point = points["15m"]
    assert (point.time, point.requests, point.errors, point.tokens) == (1000.0, 10, 1, 50)
    assert point.first_token_p50_s == pytest.approx(0.5, rel=0.3)
    assert point.first_token_p95_s == pytest.approx(1.0, rel=0.3)
    assert (point.running, point.waiting, point.memory_bytes) == (1, 2, 3)
    empty = history.advance(1.0, 1001.0, make_gauges(50))["15m"]
    assert (empty.requests, empty.tokens, empty.first_token_p50_s) == (0, 0, None)


def test_longer_steps_have_the_mean_of_their_seconds() -> None:
    history = History()
    for second in range(600):
        history.count_request(has_failed=False)
        points = history.advance(1.0, second, make_gauges(2 * (second + 1)))
    assert points.keys() == WINDOWS.keys()
    assert (points["7d"].requests, points["7d"].tokens) == (1, 2)
    assert len(history.get_points()["6h"]) == 30


def test_a_count_that_replaces_an_estimate_takes_nothing_back() -> None:
    history = History()
    rates = [
        history.advance(1.0, second, make_gauges(tokens))["15m"].tokens
        for second, tokens in enumerate((100, 90, 110))
    ]
    assert rates == [100, 0, 10]


def test_the_points_are_bounded() -> None:
    history = History()
    for hour in range(24 * 9):
        for _ in range(6):
            history.advance(600.0, hour, make_gauges())
    counts = {name: len(points) for name, points in history.get_points().items()}
    assert counts == {name: length // step for name, (step, length) in WINDOWS.items()}


def test_a_time_that_does_not_pass_makes_no_point() -> None:
    assert History().advance(0.0, 0.0, make_gauges()) == {}


async def test_a_restart_keeps_the_points(tmp_path: Path) -> None:
    async with FakeService() as upstream:
        async with serve(tmp_path, upstream.base_url) as served:
            assert (await call(served.http, make_body("hello", "fake")))[0] == 200
            history = served.gateway.context.metrics.history
            await served.wait_until(
                lambda: any(one.requests for one in history.get_points()["15m"])
            )
        points = history.get_points()["15m"]
        async with (
            serve(tmp_path, upstream.base_url) as served,
            served.http.get("/api/history?window=15m") as response,
        ):
            shown = (await response.json())["points"]
    assert [point[0] for point in shown[: len(points)]] == [point.time for point in points]
    if sys.platform != "win32":
        assert stat.S_IMODE((tmp_path / "history.json").stat().st_mode) == 0o600


async def test_old_points_and_those_of_a_later_clock_are_left_out(tmp_path: Path) -> None:
    history = History()
    for second in range(10):
        history.advance(1.0, 1000.0 + second, make_gauges())
    await HistoryFile(tmp_path, history).save()
    restored = History()
    await HistoryFile(tmp_path, restored, wall_clock=lambda: 1000.0 + 900 + 4).open()
    assert [point.time for point in restored.get_points()["15m"]] == [
        1000.0 + n for n in range(4, 10)
    ]
    later = History()
    await HistoryFile(tmp_path, later, wall_clock=lambda: 1003.0).open()
    assert len(later.get_points()["15m"]) == 4
    # Those that become too old leave, though there are fewer than fit.
    restored.advance(1.0, 1000.0 + 900 + 8, make_gauges())
    assert [point.time for point in restored.get_points()["15m"]] == [1008.0, 1009.0, 1908.0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 1, "points": {"15m": [[1]]}}',
        b'{"version": 1, "points": {"\xff": []}}',
        b'{"x": ' + b"[" * 5000,
        b"\0" * 5 * 2**20,
    ],
)
async def test_a_file_that_cannot_be_read_is_no_obstacle(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    history, file = History(), tmp_path / "history.json"
    file.write_bytes(content)
    await HistoryFile(tmp_path, history).open()
    assert history.get_points()["15m"] == ()
    assert str(file) in caplog.text


async def test_a_disk_that_cannot_be_written_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = tmp_path / "missing"
    file = HistoryFile(missing, History())
    await file.save()
    await file.save()
    assert caplog.text.count("not stored") == 1
    missing.mkdir()
    await file.save()
    assert (missing / "history.json").exists()
