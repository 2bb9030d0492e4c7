"""The speed of a batch over time, across several runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.batch.statistics import MAX_BUCKETS, RunStatistics, SecondStatistics, Timeline


def run(started_at: float, ended_at: float) -> RunStatistics:
    return RunStatistics(started_at=started_at, ended_at=ended_at, lines=1)


def second(at: int, lines: int = 1) -> SecondStatistics:
    return SecondStatistics(at, lines, 0, 2 * lines, 3 * lines)


def test_time_between_runs_does_not_count() -> None:
    timeline = Timeline([run(50_000, 50_005), run(100, 110)])
    assert timeline.elapsed_s == 15
    assert timeline.get_active_s(105) == 5
    assert timeline.get_active_s(30_000) == 10, "between them"
    assert timeline.get_active_s(50_002) == 12
    assert timeline.get_active_s(90_000) == 15, "after all"


def test_overlapping_runs_count_once() -> None:
    assert Timeline([run(0, 10), run(5, 20), run(6, 7)]).elapsed_s == 20


def test_buckets_contain_the_lines_finished_in_them() -> None:
    moments = Timeline([run(100, 103)]).make_buckets([second(100), second(102, 5)])
    assert [bucket.lines for bucket in moments] == [1, 0, 5]
    assert [bucket.at_s for bucket in moments] == [0, 1, 2]
    assert moments[2].completion_tokens == 15


def test_last_bucket_has_its_real_length() -> None:
    moments = Timeline([run(0, 2.5)]).make_buckets([second(2)])
    assert [bucket.span_s for bucket in moments] == [1, 1, 0.5]


def test_no_runs_give_one_empty_bucket() -> None:
    (moment,) = Timeline([]).make_buckets([])
    assert (moment.lines, moment.at_s) == (0, 0)
    assert moment.span_s > 0


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**5)), min_size=1, max_size=8))
def test_every_line_is_in_exactly_one_bucket(
    runs: list[tuple[int, int]],
) -> None:
    timeline = Timeline(run(begin, begin + length) for begin, length in runs)
    seconds = [second(begin + length) for begin, length in sorted(runs, key=sum)]
    moments = timeline.make_buckets(seconds)
    assert len(moments) <= MAX_BUCKETS
    assert sum(bucket.lines for bucket in moments) == len(runs)
    assert sum(bucket.span_s for bucket in moments) == pytest.approx(timeline.elapsed_s, abs=0.002)
