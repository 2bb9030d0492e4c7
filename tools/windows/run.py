"""Run the tests on Windows' Python: `python3 dev.py test --windows [ARGUMENT ...]`.

The arguments are those of pytest; files and directories among them say which tests run, instead of
all. The test files are divided into groups. Each worker has a Windows of its own, and runs one
group after another, so that a program that takes its Windows down ends one group only. The summary
is in `.windows/summary.txt`, and the output of each group in `.windows/groups/`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from environment import (
    CHECKOUT,
    DIRECTORY,
    PYTHON,
    Prefix,
    SetupError,
    find_isolation,
    prepare,
    say,
)
from skips import RECORD

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from types import FrameType

TESTS = ("tests/unit", "tests/faults", "tests/service", "tests/conformance", "tests/gateway")
GROUP_FILES = 12
GROUP_TIMEOUT_S = 1800.0
MAX_RUNS = 8
NO_TESTS = 5
WORKERS = "FOUNDRY_WINDOWS_WORKERS"
MAX_WORKERS = 4

LOCK = DIRECTORY / "lock"
RESULTS = DIRECTORY / "groups"
SUMMARY = DIRECTORY / "summary.txt"
OUTCOMES = ("passed", "failed", "skipped")


@dataclass(slots=True)
class GroupResult:
    """The outcome of one group."""

    name: str
    seconds: float = 0.0
    outcomes: dict[str, str] = field(default_factory=dict[str, str])
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    errors: dict[str, str] = field(default_factory=dict[str, str])
    problem: str = ""

    @property
    def counts(self) -> dict[str, int]:
        found = list(self.outcomes.values())
        return {outcome: found.count(outcome) for outcome in OUTCOMES}

    @property
    def failed(self) -> list[str]:
        return [test for test, outcome in self.outcomes.items() if outcome == "failed"]

    @property
    def unfinished(self) -> list[str]:
        return [test for test, outcome in self.outcomes.items() if outcome == "started"]

    def read(self, record: Path) -> None:
        """Read what the plugin wrote."""
        lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
        for line in lines:
            entry = json.loads(line)
            self.outcomes[entry["test"]] = entry["outcome"]
            if "error" in entry:
                self.errors[entry["test"]] = entry["error"]
            if "reason" in entry:
                self.reasons[entry["test"]] = entry["reason"]

    def take_down(self, record: Path) -> None:
        """Record the tests during which pytest was ended as failed."""
        with record.open("a", encoding="utf-8") as file:
            for test in self.unfinished:
                file.write(json.dumps({"test": test, "outcome": "failed"}) + "\n")
                self.outcomes[test] = "failed"
                say(f"  group {self.name}: pytest was ended during {test}")


def main(arguments: Sequence[str]) -> int:
    DIRECTORY.mkdir(exist_ok=True)
    with LOCK.open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("dev.py: another run uses .windows; wait for it to end")
            return 1
        return run(arguments)


def run(arguments: Sequence[str]) -> int:
    """Run the tests and print the summary. Only one process at a time may do so."""
    try:
        options, groups = split_arguments(arguments)
        prefix = prepare()
    except SetupError as error:
        say(f"\ndev.py: {error}")
        return 1
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir()
    workers = min(len(groups), int(os.environ.get(WORKERS, min(os.cpu_count() or 1, MAX_WORKERS))))
    runner = Runner(prefix, options, workers)
    signal.signal(signal.SIGTERM, runner.interrupt)
    try:
        results = runner.run(groups)
    except KeyboardInterrupt:
        say("\ndev.py: interrupted")
        return 130
    finally:
        runner.end()
    text = summarize(results)
    SUMMARY.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0 if all(not r.failed and not r.problem for r in results) else 1


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the options of pytest, and the groups of tests to run.

    Raises:
        SetupError: There are no such tests.
    """
    chosen = [word for word in arguments if (CHECKOUT / word.partition("::")[0]).exists()]
    options = [word for word in arguments if word not in chosen]
    if missing := [word for word in options if word.startswith("tests/")]:
        raise SetupError(f"there is no {missing[0]}")  # else every test would run
    top = sorted(f"tests/{path.name}" for path in (CHECKOUT / "tests").glob("test_*.py"))
    groups: list[list[str]] = []
    for word in chosen or (*TESTS, *top):
        path = CHECKOUT / word
        if not path.is_dir():
            # Single files and tests share a group, if they follow each other.
            if groups and len(groups[-1]) < GROUP_FILES and groups[-1][0].count("/") == 1:
                groups[-1].append(word)
            else:
                groups.append([word])
            continue
        files = sorted(file.relative_to(CHECKOUT).as_posix() for file in path.rglob("test_*.py"))
        groups += [files[at : at + GROUP_FILES] for at in range(0, len(files), GROUP_FILES)]
    return options, groups


class Runner:
    """Runs groups of tests, each worker in a Windows of its own."""

    def __init__(self, prefix: Prefix, options: Sequence[str], workers: int) -> None:
        self._base = prefix
        self._options = list(options)
        self._workers = workers
        self._isolation = find_isolation()
        self._free: list[Prefix] = []
        self._all: list[Prefix] = []
        self._lock = threading.Lock()
        self._is_stopped = False

    def run(self, groups: Sequence[Sequence[str]]) -> list[GroupResult]:
        """Run all groups, and return their results in their order."""
        with ThreadPoolExecutor(self._workers) as pool:
            futures = [
                pool.submit(self._run_group, f"{number:02}", group)
                for number, group in enumerate(groups, 1)
            ]
            try:
                return [future.result() for future in futures]
            except BaseException:
                self._is_stopped = True
                pool.shutdown(wait=False, cancel_futures=True)
                self.end()
                raise

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    def end(self) -> None:
        """End every program that was started, and remove the copies of Windows."""
        with self._lock:
            prefixes, self._all = self._all, []
        for prefix in prefixes:
            prefix.end()
            shutil.rmtree(prefix.path, ignore_errors=True)

    def _take(self) -> Prefix:
        with self._lock:
            if self._free:
                return self._free.pop()
            number = len(self._all) + 1
            prefix = Prefix(DIRECTORY / f"worker-{number}")
            self._all.append(prefix)
        return self._base.copy_to(prefix.path)

    def _run_group(self, name: str, group: Sequence[str]) -> GroupResult:
        prefix = self._take()
        began_at = time.monotonic()
        record = prefix.disk / f"group-{name}.jsonl"
        words = (
            *("-m", "pytest", "-p", "skips", "-p", "no:cacheprovider", "-v", "-rfE", "--tb=short"),
            "--continue-on-collection-errors",
            *(f"--basetemp=C:\\t{name}", *self._options, *group),
        )
        result = GroupResult(name)
        with (RESULTS / f"{name}.txt").open("wb") as output:
            for _ in range(MAX_RUNS):
                done = prefix.execute(
                    (PYTHON, *words),
                    GROUP_TIMEOUT_S,
                    ends=True,  # and with it what a test left running
                    environ={RECORD: f"C:\\{record.name}"},
                    isolation=self._isolation,
                )
                output.write(done.output)
                if self._is_stopped:
                    break
                known = len(result.outcomes)
                result.read(record)
                # 0: passed, 1: failed, 5: nothing is left to run. Else pytest itself was ended.
                if done.returncode in {0, 1, NO_TESTS} and not result.unfinished:
                    break
                result.take_down(record)
                if len(result.outcomes) == known:  # it ends before it runs a test
                    break
                # pytest had no time to write why earlier tests failed.
                for test, error in result.errors.items():
                    output.write(f"\n{test}\n{error}\n".encode())
            else:
                result.problem = f"was ended {MAX_RUNS} times"
        if done.returncode not in {0, 1, NO_TESTS}:
            result.problem = result.problem or f"pytest ended with {done.returncode}"
        result.seconds = time.monotonic() - began_at
        shutil.rmtree(prefix.disk / f"t{name}", ignore_errors=True)
        record.unlink(missing_ok=True)
        counts = ", ".join(f"{count} {outcome}" for outcome, count in result.counts.items())
        say(f"  group {name} ({group[0]} …): {counts}, {result.seconds:.0f} s {result.problem}")
        with self._lock:
            self._free.append(prefix)
        return result


def summarize(results: Iterable[GroupResult]) -> str:
    """Return the counts of all groups, the failures, and the reasons of the skips."""
    results = list(results)
    total = {name: sum(result.counts[name] for result in results) for name in OUTCOMES}
    lines = [", ".join(f"{count} {name}" for name, count in total.items()) + " on Windows' Python"]
    for result in results:
        output = f".windows/groups/{result.name}.txt"
        if result.problem:
            lines.append(f"group {result.name} {result.problem} ({output})")
        lines += [f"FAILED {test} ({output})" for test in result.failed]
    reasons = Counter(reason for result in results for reason in result.reasons.values())
    lines += [f"skipped {count}: {reason}" for reason, count in sorted(reasons.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
