"""The check of the whole input: its counts, problems and duplicates."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import InputOptions
from foundry_api.batch.sources import CheckProgress, check, open_source, validate
from foundry_api.batch.sources.validate import IdHashes
from foundry_api.types.errors import BatchInputInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from foundry_api.batch.sources import Source


def request_line(custom_id: Any, text: str = "Hi", **members: Any) -> str:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"custom_id": custom_id, "body": {"messages": messages, **members}})


def source(tmp_path: Path, lines: Iterable[str]) -> Source:
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return open_source(InputOptions(path=str(file)))


def test_check_counts_lines_models_and_routes(tmp_path: Path) -> None:
    embedding = {"custom_id": "d", "url": "/v1/embeddings", "body": {"input": "Hi", "model": "e"}}
    lines = [
        request_line("a"),
        request_line("b", model="demo"),
        request_line("c", model="demo"),
        json.dumps(embedding),
    ]
    report = check(source(tmp_path, lines))
    assert (report.lines, report.bad, report.problems) == (4, 0, ())
    assert report.models == {"": 1, "demo": 2, "e": 1}
    assert report.urls == {"/v1/chat/completions": 3, "/v1/embeddings": 1}
    assert report.duplicates == frozenset()


def test_bad_lines_are_reported_in_order_and_not_counted_by_model(
    tmp_path: Path,
) -> None:
    lines = [
        "{",
        request_line("a"),
        request_line("b", ""),
        request_line("a"),
        request_line("c", max_token=1),
    ]
    report = check(source(tmp_path, lines))
    assert (report.lines, report.bad, report.models) == (5, 4, {"": 1})
    assert [(problem.index, problem.field, problem.custom_id) for problem in report.problems] == [
        (0, None, None),
        (2, "body.messages[0].content", "b"),
        (3, "custom_id", "a"),
        (4, "body.max_token", "c"),
    ]
    assert report.problems[2].message == (
        "in.jsonl line 4: custom_id 'a' is already that of line 2"
    )
    assert report.duplicates == {3}


def test_the_custom_id_of_a_bad_line_counts_as_used(tmp_path: Path) -> None:
    """Both lines are in the results, so the custom_id must tell them apart."""
    report = check(
        source(tmp_path, [request_line("a", ""), request_line("a"), request_line("a", "")])
    )
    assert (report.bad, report.duplicates) == (3, {1, 2})


def test_the_first_hundred_problems_are_listed_and_all_counted(tmp_path: Path) -> None:
    report = check(source(tmp_path, ["{"] * 300))
    assert (report.bad, len(report.problems)) == (300, 100)
    assert [problem.index for problem in report.problems] == list(range(100))


def test_too_many_duplicate_custom_ids_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "MAX_DUPLICATES", 10)
    assert len(check(source(tmp_path, [request_line("a")] * 11)).duplicates) == 10
    with pytest.raises(BatchInputInvalid, match=r"11 lines of in\.jsonl have the custom_id"):
        check(source(tmp_path, [request_line("a")] * 12))


def test_hash_collisions_are_compared_by_custom_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashes of 2 bits make most lines collide."""
    monkeypatch.setattr(validate, "hash", lambda name: hash(name) % 4 + 1, raising=False)
    lines = [request_line(f"a{index}") for index in range(40)]
    report = check(source(tmp_path, [*lines, request_line("a7")]))
    assert (report.bad, report.duplicates) == (1, {40})


def test_lines_without_custom_id_are_no_duplicates() -> None:
    names = IdHashes()
    for name in (None, "a", None, "b", "a"):
        names.add(name)
    suspects = names.find_candidates()
    assert [index for index in range(5) if index in suspects] == [1, 4]
    assert suspects.count == 1


def test_check_reports_progress_and_ends_if_the_callback_raises(tmp_path: Path) -> None:
    opened = source(tmp_path, (request_line(str(index)) for index in range(5_500)))
    reports: list[CheckProgress] = []
    check(opened, on_progress=reports.append)
    assert [report.lines for report in reports] == [1000, 2000, 3000, 4000, 5000]
    fractions = [report.fraction for report in reports]
    assert all(fraction is not None and 0 < fraction <= 1 for fraction in fractions)

    def stop(_: CheckProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(opened, on_progress=stop)


def test_an_empty_input_has_no_lines(tmp_path: Path) -> None:
    report = check(source(tmp_path, []))
    assert (report.lines, report.bad, report.models) == (0, 0, {})


def test_memory_does_not_grow_with_the_line_length(tmp_path: Path) -> None:
    """Each of 10,000 lines has 2 kB; 8 bytes of each stay in memory, 16 while sorting."""
    count = 10_000
    opened = source(tmp_path, (request_line(str(index), "x" * 2000) for index in range(count)))
    check(open_source(InputOptions(path=str(tmp_path / "in.jsonl"))), on_progress=lambda _: None)
    tracemalloc.start()
    try:
        check(opened)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < count * 40 + 2 * 2**20
