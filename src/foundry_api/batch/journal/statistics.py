"""Counts and statistics over a journal. Latencies are read row by row, so memory stays flat."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.batch.journal.database import translate_json_errors
from foundry_api.batch.journal.types import ResultCounts
from foundry_api.batch.statistics import (
    LATENCY_BUCKETS,
    BatchStatistics,
    ErrorStatistics,
    ModelStatistics,
    RunStatistics,
    SecondStatistics,
    Timeline,
)
from foundry_api.observe.histogram import Histogram
from foundry_api.storage.sqlite import check_row, check_rows

if TYPE_CHECKING:
    import sqlite3

    from foundry_api.observe.histogram import Distribution

__all__ = ["compute_statistics", "count_failures_by_type", "count_results"]

MAX_GROUPS = 50
NONE = type(None)

COUNTS_SQL = """
select count(*) - sum(failed), sum(failed), sum(shared and not failed), sum(prompt),
    sum(completion), sum(attempts) from result
"""
# A runner that died has no end; the time of its last heartbeat stands in for it.
RUNS_SQL = "select since, coalesce(ended, seen), lines from runner where lines order by number"
# A shared answer was generated once, so its tokens do not count as throughput again.
SECONDS_SQL = """
select cast(at as integer), count(*), sum(failed), sum(prompt * (not shared)),
    sum(completion * (not shared)) from result group by 1 order by 1
"""
ERRORS_SQL = """
select code, count(*), min(idx) from result where failed group by code
order by 2 desc, code limit ?
"""
MODELS_SQL = """
select name, count(*), sum(failed), sum(prompt), sum(completion) from result
join model on model.number = result.model group by name order by 2 desc, name limit ?
"""
FAILURES_SQL = "select code, count(*) from result where failed group by code"
LATENCIES_SQL = "select duration from result where not failed and not shared"
FIRST_TOKENS_SQL = "select first_token from result where first_token is not null and not shared"


def count_results(database: sqlite3.Connection) -> ResultCounts:
    # Without any row each sum is null.
    row = check_row(database.execute(COUNTS_SQL).fetchone(), *[(int, NONE)] * 6)
    done, failed, shared, prompt, completion, attempts = (value or 0 for value in row)
    return ResultCounts(
        done=done,
        failed=failed,
        shared=shared,
        prompt_tokens=prompt,
        completion_tokens=completion,
        attempts=attempts,
    )


def count_failures_by_type(database: sqlite3.Connection) -> dict[str, int]:
    return dict(database.execute(FAILURES_SQL).fetchall())


def compute_statistics(database: sqlite3.Connection) -> BatchStatistics:
    counts = count_results(database)
    runs = tuple(
        RunStatistics(started_at=started_at, ended_at=ended_at, lines=lines)
        for started_at, ended_at, lines in check_rows(database.execute(RUNS_SQL), float, float, int)
    )
    timeline = Timeline(runs)
    return BatchStatistics(
        done=counts.done,
        failed=counts.failed,
        shared=counts.shared,
        prompt_tokens=counts.prompt_tokens,
        completion_tokens=counts.completion_tokens,
        elapsed_s=timeline.elapsed_s,
        runs=runs,
        latency=_compute_distribution(database, LATENCIES_SQL),
        time_to_first_token=_compute_distribution(database, FIRST_TOKENS_SQL),
        throughput=timeline.make_buckets(
            SecondStatistics(*row) for row in check_rows(database.execute(SECONDS_SQL), *[int] * 5)
        ),
        errors=tuple(
            _make_error_statistics(database, *row)
            for row in check_rows(database.execute(ERRORS_SQL, (MAX_GROUPS,)), str, int, int)
        ),
        models=tuple(
            ModelStatistics(
                model=model,
                lines=lines,
                failed=failed,
                prompt_tokens=prompt,
                completion_tokens=completion,
            )
            for model, lines, failed, prompt, completion in check_rows(
                database.execute(MODELS_SQL, (MAX_GROUPS,)), str, int, int, int, int
            )
        ),
    )


def _compute_distribution(database: sqlite3.Connection, query: str) -> Distribution:
    histogram = Histogram(LATENCY_BUCKETS)
    with closing(database.execute(query)) as rows:
        for row in rows:
            histogram.add(check_row(row, float)[0])
    return histogram.snapshot()


def _make_error_statistics(
    database: sqlite3.Connection, code: str, count: int, first_index: int
) -> ErrorStatistics:
    row = database.execute("select output from failure where idx = ?", (first_index,)).fetchone()
    (output,) = check_row(row, bytes)
    with translate_json_errors():
        error_line: dict[str, Any] = msgspec.json.decode(output, type=dict[str, Any])
        error: dict[str, Any] = msgspec.convert(error_line.get("error") or {}, dict[str, Any])
    return ErrorStatistics(
        code=code,
        count=count,
        custom_id=str(error_line.get("custom_id") or ""),
        message=str(error.get("message") or ""),
        hint=str(error.get("hint") or ""),
    )
