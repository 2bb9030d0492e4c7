"""Which models are unloaded for another one, and which are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.core.residency.policy import ModelResidency, Resident, select_models_to_unload
from foundry_api.types.errors import ConfigurationError, MemoryBudgetExceeded
from foundry_api.types.models import Model, ModelUser
from foundry_api.types.settings import Settings

SOMEBODY = ModelUser(program="chat.py", pid=7, last_used_s=4.0)


def model(name: str, size_mb: int | None = None) -> Model:
    return Model(id=f"{name}:1", alias=name, catalog="local", size_mb=size_mb)


def resident(
    name: str,
    size_mb: int | None,
    last_used: float = 0.0,
    *,
    used: bool = False,
    blocked_by: str = "",
) -> Resident:
    users = (SOMEBODY,) if used else ()
    return Resident(
        model=model(name, size_mb), last_used=last_used, users=users, blocked_by=blocked_by
    )


def names(chosen: tuple[Resident, ...]) -> list[str]:
    return [entry.model.alias for entry in chosen]


BUDGET = ModelResidency(memory_budget_mb=1000)
OLD, MIDDLE, NEW = resident("old", 400, 1), resident("middle", 300, 2), resident("new", 200, 3)


@pytest.mark.parametrize(
    ("size_mb", "gone"),
    [
        (100, []),
        (101, ["old"]),
        (500, ["old"]),
        (501, ["old", "middle"]),
        (1000, ["old", "middle", "new"]),
    ],
)
def test_least_recently_used_are_unloaded_first_and_no_more_than_needed(
    size_mb: int, gone: list[str]
) -> None:
    assert (
        names(select_models_to_unload([NEW, OLD, MIDDLE], model("next", size_mb), BUDGET)) == gone
    )


def test_model_in_memory_needs_no_room() -> None:
    assert select_models_to_unload([OLD, MIDDLE, NEW], model("old", 9000), BUDGET) == ()


def test_max_loaded_is_a_limit_too() -> None:
    assert names(
        select_models_to_unload([OLD, NEW], model("next"), ModelResidency(max_loaded=2))
    ) == ["old"]
    both = ModelResidency(max_loaded=2, memory_budget_mb=450)
    assert names(select_models_to_unload([OLD, NEW], model("next", 300), both)) == ["old", "new"]


def test_unknown_size_counts_as_zero() -> None:
    unknown = resident("unknown", None, 0.5)
    assert select_models_to_unload([unknown], model("next", 1000), BUDGET) == ()
    assert names(select_models_to_unload([unknown, NEW], model("next", 900), BUDGET)) == [
        "unknown",
        "new",
    ]


def test_model_with_calls_in_flight_is_unloaded_last() -> None:
    busy = resident("busy", 500, 0, used=True)
    assert names(select_models_to_unload([busy, NEW], model("next", 450), BUDGET)) == ["new"]
    assert names(select_models_to_unload([busy, NEW], model("next", 900), BUDGET)) == [
        "new",
        "busy",
    ]


def test_nothing_is_unloaded_for_a_model_that_cannot_fit() -> None:
    with pytest.raises(MemoryBudgetExceeded, match="1001 MB by itself, and the budget is 1000 MB"):
        select_models_to_unload([OLD], model("huge", 1001), BUDGET)


def test_error_names_the_blocked_models_the_reasons_and_the_size() -> None:
    theirs = resident("theirs", 600, used=True, blocked_by="chat.py")
    strange = resident("strange", None, blocked_by="loaded by a stranger")
    with pytest.raises(MemoryBudgetExceeded) as caught:
        select_models_to_unload([theirs, strange, OLD], model("next", 500), BUDGET)
    error = caught.value
    assert error.message == (
        "with the models that cannot be unloaded, next:1 would take 1100 MB in 3 models, "
        "and the budget is 1000 MB; "
        "in memory: theirs:1 (600 MB, used by chat.py (pid 7), last 4 s ago), "
        "strange:1 (of unknown size, loaded by a stranger), old:1 (400 MB)"
    )
    assert error.users == (SOMEBODY,)
    assert error.model == "next:1"


residents = st.lists(
    st.builds(
        Resident,
        model=st.builds(
            Model,
            id=st.uuids().map(str),
            alias=st.just("m"),
            catalog=st.just("local"),
            size_mb=st.none() | st.integers(0, 500),
        ),
        last_used=st.floats(0, 100),
        users=st.sampled_from([(), (SOMEBODY,)]),
        blocked_by=st.sampled_from(["", "theirs"]),
    ),
    max_size=8,
)


@given(
    residents=residents,
    size_mb=st.none() | st.integers(0, 1000),
    budget_mb=st.none() | st.integers(1, 1500),
    most=st.none() | st.integers(1, 6),
)
def test_limits_hold_after_unloading_and_no_unload_is_in_vain(
    residents: list[Resident], size_mb: int | None, budget_mb: int | None, most: int | None
) -> None:
    policy = ModelResidency(memory_budget_mb=budget_mb, max_loaded=most)
    coming = model("next", size_mb)

    def fits(stay: list[Resident]) -> bool:
        total = sum(entry.size_mb for entry in stay) + (size_mb or 0)
        return total <= (budget_mb or 10**9) and len(stay) < (most or 10**9)

    try:
        gone = select_models_to_unload(residents, coming, policy)
    except MemoryBudgetExceeded:
        assert not fits([entry for entry in residents if entry.blocked_by])
        return
    assert not [entry for entry in gone if entry.blocked_by]
    assert fits([entry for entry in residents if entry not in gone])
    assert not gone or not fits([entry for entry in residents if entry not in gone[:-1]])
    order = [(bool(entry.users), entry.last_used) for entry in gone]
    assert order == sorted(order)


@pytest.mark.parametrize(
    "wrong",
    [{"keep_alive_s": 0}, {"memory_budget_mb": -1}, {"max_loaded": 0}, {"hold_s": float("nan")}],
)
def test_invalid_policy_is_rejected_with_the_name_of_the_value(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        ModelResidency(**wrong)  # type: ignore[arg-type]


def test_policy_of_the_settings() -> None:
    policy = ModelResidency.from_settings(Settings(keep_alive_s=60, memory_budget_mb=4000))
    assert policy == ModelResidency(keep_alive_s=60, memory_budget_mb=4000)
    assert policy.bounded
    assert not ModelResidency.from_settings(Settings()).bounded


def test_call_starts_only_if_the_next_renewal_is_in_time() -> None:
    policy = ModelResidency(hold_s=60)
    assert policy.sure_s + policy.renew_s < policy.hold_s
