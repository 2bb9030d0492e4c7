"""The state of a service after a series of checks."""

from __future__ import annotations

from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api import ConfigurationError, Hysteresis
from foundry_api.monitor.state import StateMachine, Transition

VERDICTS = st.lists(st.sampled_from(["healthy", "degraded", "down"]), max_size=60)
COUNTS = st.integers(1, 5)
LETTERS = {"h": "healthy", "d": "degraded", "x": "down"}


def find_changes(statuses: str, **needs: int) -> list[tuple[str, str, float]]:
    """Return the changes after checks, given as one letter for each second."""
    machine = StateMachine(Hysteresis(**needs))
    found = [machine.update(LETTERS[status], float(at)) for at, status in enumerate(statuses)]  # type: ignore[arg-type]
    return [tuple(change) for change in found if change is not None]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ("h", [("unknown", "healthy", 0)]),
        ("x", []),
        ("xx", [("unknown", "down", 0)]),
        ("dd", []),
        ("ddd", [("unknown", "degraded", 0)]),
        ("hxhxhxh", [("unknown", "healthy", 0)]),
        ("hxxh", [("unknown", "healthy", 0), ("healthy", "down", 1)]),
        ("hxxhh", [("unknown", "healthy", 0), ("healthy", "down", 1), ("down", "healthy", 3)]),
        ("hdxd", [("unknown", "healthy", 0), ("healthy", "degraded", 1)]),
        ("dddxx", [("unknown", "degraded", 0), ("degraded", "down", 3)]),
        ("xxdh", [("unknown", "down", 0), ("down", "degraded", 2)]),
        (
            "xxdhh",
            [("unknown", "down", 0), ("down", "degraded", 2), ("degraded", "healthy", 3)],
        ),
    ],
)
def test_the_state_changes_when_enough_checks_agree(
    statuses: str, expected: list[tuple[str, str, float]]
) -> None:
    assert find_changes(statuses) == expected


@pytest.mark.parametrize("name", ["down_after", "degraded_after", "recover_after"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5])
def test_an_invalid_count_is_rejected_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Hysteresis(**{name: value})  # type: ignore[arg-type]


@given(VERDICTS, COUNTS, COUNTS, COUNTS)
def test_down_needs_exactly_down_after_failed_checks(
    statuses: list[str], down: int, degraded: int, recover: int
) -> None:
    machine = StateMachine(
        Hysteresis(down_after=down, degraded_after=degraded, recover_after=recover)
    )
    run = 0
    for at, status in enumerate(statuses):
        before = machine.state
        change = machine.update(status, float(at))  # type: ignore[arg-type]
        run = run + 1 if status == "down" else 0
        if run >= down:
            assert machine.state == "down"
        if change is not None and change.new == "down":
            assert (run, change.since) == (down, at - down + 1)
        assert (change is None) == (machine.state == before)


@given(VERDICTS, COUNTS, COUNTS, COUNTS)
def test_each_state_needs_its_number_of_checks(
    statuses: list[str], down: int, degraded: int, recover: int
) -> None:
    machine = StateMachine(
        Hysteresis(down_after=down, degraded_after=degraded, recover_after=recover)
    )
    changes = [
        (at, change)
        for at, status in enumerate(statuses)
        if (change := machine.update(status, float(at))) is not None  # type: ignore[arg-type]
    ]
    for at, change in changes:
        run = statuses[int(change.since) : at + 1]
        if change.new == "healthy" and change.old != "unknown":
            assert len(run) >= recover
            assert set(run[-recover:]) == {"healthy"}
        if change.new == "down":
            assert set(run) == {"down"}
        if change.new == "degraded":
            assert len(run) >= min(degraded, recover)
            assert "degraded" in run or change.old in {"unknown", "healthy"}


@given(VERDICTS)
def test_each_change_starts_from_the_previous_state(statuses: list[str]) -> None:
    machine = StateMachine(Hysteresis())
    found = [machine.update(status, float(at)) for at, status in enumerate(statuses)]  # type: ignore[arg-type]
    changes: list[Transition] = [change for change in found if change is not None]
    assert all(change.old != change.new for change in changes)
    assert all(a.new == b.old for a, b in pairwise(changes))
    assert [change.since for change in changes] == sorted(change.since for change in changes)


@given(VERDICTS)
def test_alternating_checks_change_nothing(statuses: list[str]) -> None:
    """A single bad check between two healthy ones never counts."""
    single_statuses = [status for status, _ in groupby(statuses)]
    flicker = [one for status in single_statuses for one in ("healthy", status)]
    machine = StateMachine(Hysteresis())
    for at, status in enumerate(["healthy", *flicker]):
        machine.update(status, float(at))  # type: ignore[arg-type]
    assert machine.state == "healthy"
