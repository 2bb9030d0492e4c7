"""The whole input is looked at before anything runs: what is in it, and what is wrong."""

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


def asks(custom_id: Any, text: str = "Hi", **members: Any) -> str:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"custom_id": custom_id, "body": {"messages": messages, **members}})


def source(tmp_path: Path, lines: Iterable[str]) -> Source:
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return open_source(InputOptions(path=str(file)))


def test_a_check_tells_what_the_input_holds(tmp_path: Path) -> None:
    embedding = {"custom_id": "d", "url": "/v1/embeddings", "body": {"input": "Hi", "model": "e"}}
    lines = [asks("a"), asks("b", model="demo"), asks("c", model="demo"), json.dumps(embedding)]
    report = check(source(tmp_path, lines))
    assert (report.lines, report.bad, report.problems) == (4, 0, ())
    assert report.models == {"": 1, "demo": 2, "e": 1}
    assert report.urls == {"/v1/chat/completions": 3, "/v1/embeddings": 1}
    assert report.duplicates == frozenset()


def test_bad_lines_are_told_in_their_order_and_not_counted_among_the_models(
    tmp_path: Path,
) -> None:
    lines = ["{", asks("a"), asks("b", ""), asks("a"), asks("c", max_token=1)]
    report = check(source(tmp_path, lines))
    assert (report.lines, report.bad, report.models) == (5, 4, {"": 1})
    assert [(each.index, each.field, each.custom_id) for each in report.problems] == [
        (0, None, None),
        (2, "body.messages[0].content", "b"),
        (3, "custom_id", "a"),
        (4, "body.max_token", "c"),
    ]
    assert report.problems[2].message == (
        "in.jsonl line 4: custom_id 'a' is already that of line 2"
    )
    assert report.duplicates == {3}


def test_the_name_of_a_bad_line_is_taken(tmp_path: Path) -> None:
    """Both lines are in the results, so the name alone would not tell which is which."""
    report = check(source(tmp_path, [asks("a", ""), asks("a"), asks("a", "")]))
    assert (report.bad, report.duplicates) == (3, {1, 2})


def test_the_first_hundred_problems_are_told_and_all_are_counted(tmp_path: Path) -> None:
    report = check(source(tmp_path, ["{"] * 300))
    assert (report.bad, len(report.problems)) == (300, 100)
    assert [each.index for each in report.problems] == list(range(100))


def test_names_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "MAX_DUPLICATES", 10)
    assert len(check(source(tmp_path, [asks("a")] * 11)).duplicates) == 10
    with pytest.raises(BatchInputInvalid, match=r"11 lines of in\.jsonl have the custom_id"):
        check(source(tmp_path, [asks("a")] * 12))


def test_names_that_only_seem_to_come_twice_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the hashes were of 2 bits, so that most of them are shared."""
    monkeypatch.setattr(validate, "hash", lambda name: hash(name) % 4 + 1, raising=False)
    lines = [asks(f"a{index}") for index in range(40)]
    report = check(source(tmp_path, [*lines, asks("a7")]))
    assert (report.bad, report.duplicates) == (1, {40})


def test_requests_without_a_name_have_no_name_in_common() -> None:
    names = IdHashes()
    for name in (None, "a", None, "b", "a"):
        names.add(name)
    suspects = names.find_candidates()
    assert [index for index in range(5) if index in suspects] == [1, 4]
    assert suspects.count == 1


def test_a_check_tells_how_far_it_is_and_ends_when_its_listener_raises(tmp_path: Path) -> None:
    opened = source(tmp_path, (asks(str(index)) for index in range(5_500)))
    told: list[CheckProgress] = []
    check(opened, on_progress=told.append)
    assert [each.lines for each in told] == [1000, 2000, 3000, 4000, 5000]
    fractions = [each.fraction for each in told]
    assert all(fraction is not None and 0 < fraction <= 1 for fraction in fractions)

    def stop(_: CheckProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(opened, on_progress=stop)


def test_an_empty_input_has_no_lines(tmp_path: Path) -> None:
    report = check(source(tmp_path, []))
    assert (report.lines, report.bad, report.models) == (0, 0, {})


def test_memory_stays_flat_in_a_long_input(tmp_path: Path) -> None:
    """Each of 30,000 lines has 2 kB; 8 bytes of each are held, 16 while they are compared."""
    count = 30_000
    opened = source(tmp_path, (asks(str(index), "x" * 2000) for index in range(count)))
    check(open_source(InputOptions(path=str(tmp_path / "in.jsonl"))), on_progress=lambda _: None)
    tracemalloc.start()
    try:
        check(opened)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < count * 40 + 2 * 2**20
