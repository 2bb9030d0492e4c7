"""A plugin of pytest for Wine: it skips what Wine cannot do, and records the outcome of each test.

Each reason to skip has a script in `proofs/`, which uses the standard library alone. It fails under
Wine, and succeeds on Windows: this distinguishes a fault of Wine from one of ours.

The record is written test by test, because a test may take its process down. A second run with the
same record runs the tests that are not in it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from wakeups import send_one_at_a_time

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LIMITS", "RECORD", "Limit", "find_limit"]

MAX_ERROR_CHARS = 4000

RECORD = "WINDOWS_TEST_RECORD"
"""Variable with the path of the record: a JSON object with `test` and `outcome` per line.

Not FOUNDRY_…: the tests remove such variables.
"""


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that Wine cannot do.

    Attributes:
        proof: The script in `proofs/` that shows it.
        reason: One line for the report.
        tests: Patterns of ids of tests that need it, without parameters, or whole ids.
    """

    proof: str
    reason: str
    tests: tuple[str, ...]


LIMITS: tuple[Limit, ...] = (
    Limit(
        "junctions.py",
        "it has no directory junctions",
        ("tests/unit/engine/test_tuning.py::*", "tests/service/test_tuning.py::*"),
    ),
    Limit(
        "inheritance.py",
        "files do not inherit the access of a private directory",
        (
            "tests/gateway/test_doctor.py::test_the_doctor_asks_a_gateway_that_runs",
            "tests/unit/cli/doctor/test_doctor.py::test_keys_of_a_gateway",
            "tests/service/test_doctor.py::test_a_healthy_machine_with_shared_engine_and_cli",
            "tests/service/test_doctor.py::test_damaged_state",
            "tests/service/test_doctor.py::test_deleted_and_changed_registered_directories",
            "tests/service/test_doctor.py::test_empty_catalog",
            "tests/service/test_doctor.py::test_model_that_does_not_fit",
            "tests/service/test_doctor.py::test_model_that_the_shared_engine_could_not_register",
            "tests/service/test_doctor.py::test_registry_damaged_after_the_start_is_reported_once",
            "tests/service/test_doctor.py::test_shared_engine_that_hangs",
            "tests/service/test_doctor.py::test_state_of_a_killed_engine",
            "tests/service/test_doctor.py::test_unreachable_catalog",
        ),
    ),
    Limit(
        "cpu_times.py",
        "the CPU time of every process is that of the one that asks",
        (
            *(
                f"tests/conformance/test_capabilities.py::test_measured_capability_matches_the_table[{capability}-sdk-2.1]"
                for capability in ("cancellation", "prompt_cancellation")
            ),
            "tests/conformance/test_endpoints.py::test_leaving_the_events_early_frees_the_engine",
            "tests/service/test_prompt_reading.py::test_slot_is_taken_until_the_engine_has_read_an_abandoned_prompt",
            "tests/service/test_prompt_reading.py::test_second_process_replaces_an_engine_that_reads_an_abandoned_prompt",
        ),
    ),
    Limit(
        "socket_owners.py",
        "the system does not know which process a listening socket belongs to",
        (
            "tests/service/test_doctor.py::test_known_port_taken_by_another_program",
            "tests/service/test_idle.py::test_only_connections_to_the_given_ports_are_counted",
            "tests/service/test_listener.py::test_the_user_of_the_listening_process_counts",
        ),
    ),
)


def find_limit(test: str, limits: Iterable[Limit] = LIMITS) -> Limit | None:
    """Return the limit that keeps a test from running, if there is one."""
    name = test.partition("[")[0]
    for limit in limits:
        if test in limit.tests or any(fnmatchcase(name, pattern) for pattern in limit.tests):
            return limit
    return None


class Recorder:
    """Writes the record, and leaves out what is in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcome: dict[str, str] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[Any]) -> None:
        known: set[str] = set()
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            known = {json.loads(line)["test"] for line in lines}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in known])
        items[:] = [item for item in items if item.nodeid not in known]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._outcome = {"outcome": "passed"}
        self._write(nodeid, {"outcome": "started"})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            # Else it would be lost if a later test ends the process.
            self._outcome = {"outcome": "failed", "error": report.longreprtext[-MAX_ERROR_CHARS:]}
        elif report.skipped and self._outcome["outcome"] == "passed":
            reason = (
                report.longrepr[2] if isinstance(report.longrepr, tuple) else "expected failure"
            )
            self._outcome = {"outcome": "skipped", "reason": reason}

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._write(nodeid, self._outcome)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(report.nodeid, {"outcome": "failed"})

    def _write(self, test: str, outcome: dict[str, str]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test, **outcome}) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    if path := os.environ.get(RECORD):
        config.pluginmanager.register(Recorder(Path(path)))
    send_one_at_a_time()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        limit = find_limit(item.nodeid)
        if limit is not None:
            item.add_marker(pytest.mark.skip(reason=f"Wine: {limit.reason} (proofs/{limit.proof})"))
