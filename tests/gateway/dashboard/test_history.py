"""The points behind the plots."""

from __future__ import annotations

import pytest

from foundry_api.gateway.history import WINDOWS, Gauges, History


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
