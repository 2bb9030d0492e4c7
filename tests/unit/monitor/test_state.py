"""From looks to a state."""

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


def turns(looks: str, **needs: int) -> list[tuple[str, str, float]]:
    """The changes after looks, a letter each, one a second."""
    machine = StateMachine(Hysteresis(**needs))
    found = [machine.update(LETTERS[look], float(at)) for at, look in enumerate(looks)]  # type: ignore[arg-type]
    return [tuple(turn) for turn in found if turn is not None]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("looks", "expected"),
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
def test_a_state_changes_when_enough_looks_agree(
    looks: str, expected: list[tuple[str, str, float]]
) -> None:
    assert turns(looks) == expected


@pytest.mark.parametrize("name", ["down_after", "degraded_after", "recover_after"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5])
def test_a_count_that_cannot_be_is_refused_by_its_name(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Hysteresis(**{name: value})  # type: ignore[arg-type]


@given(VERDICTS, COUNTS, COUNTS, COUNTS)
def test_down_is_told_exactly_after_so_many_looks_without_an_answer(
    looks: list[str], down: int, degraded: int, recover: int
) -> None:
    machine = StateMachine(
        Hysteresis(down_after=down, degraded_after=degraded, recover_after=recover)
    )
    run = 0
    for at, look in enumerate(looks):
        before = machine.state
        turn = machine.update(look, float(at))  # type: ignore[arg-type]
        run = run + 1 if look == "down" else 0
        if run >= down:
            assert machine.state == "down"
        if turn is not None and turn.new == "down":
            assert (run, turn.since) == (down, at - down + 1)
        assert (turn is None) == (machine.state == before)


@given(VERDICTS, COUNTS, COUNTS, COUNTS)
def test_no_state_comes_from_fewer_looks_than_it_needs(
    looks: list[str], down: int, degraded: int, recover: int
) -> None:
    machine = StateMachine(
        Hysteresis(down_after=down, degraded_after=degraded, recover_after=recover)
    )
    changes = [
        (at, turn)
        for at, look in enumerate(looks)
        if (turn := machine.update(look, float(at))) is not None  # type: ignore[arg-type]
    ]
    for at, turn in changes:
        run = looks[int(turn.since) : at + 1]
        if turn.new == "healthy" and turn.old != "unknown":
            assert len(run) >= recover
            assert set(run[-recover:]) == {"healthy"}
        if turn.new == "down":
            assert set(run) == {"down"}
        if turn.new == "degraded":
            assert len(run) >= min(degraded, recover)
            assert "degraded" in run or turn.old in {"unknown", "healthy"}


@given(VERDICTS)
def test_changes_join_each_other(looks: list[str]) -> None:
    machine = StateMachine(Hysteresis())
    found = [machine.update(look, float(at)) for at, look in enumerate(looks)]  # type: ignore[arg-type]
    changes: list[Transition] = [turn for turn in found if turn is not None]
    assert all(turn.old != turn.new for turn in changes)
    assert all(a.new == b.old for a, b in pairwise(changes))
    assert [turn.since for turn in changes] == sorted(turn.since for turn in changes)


@given(VERDICTS)
def test_looks_that_only_flicker_change_nothing(looks: list[str]) -> None:
    """Between two healthy looks, one that is not never counts."""
    alone = [look for look, _ in groupby(looks)]
    flicker = [one for look in alone for one in ("healthy", look)]
    machine = StateMachine(Hysteresis())
    for at, look in enumerate(["healthy", *flicker]):
        machine.update(look, float(at))  # type: ignore[arg-type]
    assert machine.state == "healthy"
