"""A runner killed at any step of publishing: afterwards each line is written once."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

FEWEST_STEPS = 20

DYING = """
import os, shutil, sys
from pathlib import Path
from support.journal_factories import *

here, name, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
os.fsync = lambda file: None  # only processes die here, not the machine
old = [make_answer(2), make_failure(1), make_answer(0), make_answer(3)]
new = [make_answer(1) if result.index == 1 and kind == "retry" else result for result in old]


def options(directory):
    return make_options(directory, name, ordered=kind == "ordered")


def begin(directory):
    directory.mkdir()
    with open_journal(options(directory)) as journal:
        journal.record(old[:3])
        if kind != "several":
            journal.record(old[3:])
        if kind == "retry":
            journal.publish(4)
    with open_journal(options(directory)) as journal:
        journal.record(old)


def resume(directory, prepare=lambda database: None):
    with open_journal(options(directory)) as journal:
        journal._database.execute("pragma synchronous = off")
        prepare(journal._database)
        if kind == "retry":
            journal.forget_failed()
            journal.record(new)
        journal.publish(4)


def dying_at(step):
    # Every statement of SQLite counts, and every file that is opened, renamed or removed.
    left = step

    def count(*_):
        nonlocal left
        left -= 1
        if not left:
            os._exit(9)

    def audit(event, arguments):
        if event in {"open", "os.rename", "os.remove"} and str(here) in str(arguments[0]):
            count()

    def begin(database):
        database.set_trace_callback(count)
        sys.addaudithook(audit)

    return begin


def read_ids(path):
    if not path.exists() or name.endswith("jsonl") or "errors" in path.name:
        return sorted(read_lines(path)) if path.exists() else None
    from pyarrow.parquet import read_table
    return read_table(path).column("custom_id").to_pylist()


def expect(results, *, failed):
    if not failed and name.endswith("parquet"):
        return sorted(f"n-{result.index}" for result in results if not result.failed)
    return sorted(result.output for result in results if result.failed == failed) or None


begin(here / "begun")
step, ended = 0, 9
while ended:
    step += 1
    directory = here / str(step)
    shutil.copytree(here / "begun", directory)
    child = os.fork()
    if not child:
        resume(directory, dying_at(step))
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in {0, 9}, (step, ended)
    output, errors = directory / name, options(directory).errors_path
    before = old if kind == "retry" else []
    for path, failed in [(output, False), (errors, True)]:
        found = read_ids(path)
        assert found in (None, expect(before, failed=failed), expect(new, failed=failed)), step
    resume(directory)
    assert read_ids(output) == expect(new, failed=False), step
    assert read_ids(errors) == expect(new, failed=True), step
    left = {path.name for path in options(directory).directory.iterdir()}
    assert left - {"journal.sqlite", "lock"} == set() or name.endswith("parquet"), (step, left)
    assert not list(directory.glob(".*")), step
    shutil.rmtree(directory)
print(step)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("sole", "answers.jsonl"),
        ("several", "answers.jsonl"),
        ("ordered", "answers.jsonl"),
        ("retry", "answers.jsonl"),
        ("several", "answers.parquet"),
    ],
)
def test_each_line_is_written_once_after_a_kill_at_any_step(
    kind: str, name: str, tmp_path: Path
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = os.pathsep.join(path for path in sys.path if path)
    finished = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path), name, kind],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) > FEWEST_STEPS
