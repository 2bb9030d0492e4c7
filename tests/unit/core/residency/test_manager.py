"""Models come into memory and leave it while calls run; nobody's call is in the way."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest

from foundry_api.core.residency.coordination import NoCoordination
from foundry_api.core.residency.idle import IdleUnloader
from foundry_api.core.residency.manager import ModelManager, ResidencyContext
from foundry_api.core.residency.policy import ModelResidency
from foundry_api.core.residency.usage_db import KnownModel
from foundry_api.types import errors
from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.events import Event, EventBus, ModelLoaded, ModelUnloaded
from foundry_api.types.models import Model, ModelUser

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping

    from foundry_api.types.messages import ServiceGeneration
    from foundry_api.wire.dialects.base import Catalog
    from support.no_real_time import Run

SIZES = {"a": 400, "b": 300, "c": 200, "huge": 2000}


def model(name: str) -> Model:
    return Model(id=f"{name}:1", alias=name, catalog="local", cached=True)


A, B, C = map(model, "abc")
THEM = ModelUser(program="chat.py", pid=7, last_used_s=4.0)


@dataclass
class Stored:
    """The responses that keep a model in memory; a double of `StoredResponses`.

    Attributes:
        free: How many may be deleted.
        kept: The ids of those that stay.
    """

    free: int = 0
    kept: tuple[str, ...] = ()

    async def release(self, _model: Model) -> bool:
        free, self.free = self.free, 0
        return bool(free)

    def for_model(self, _model: Model) -> tuple[str, ...]:
        return self.kept


@dataclass
class Engine:
    """What a service does with its memory; a double of dialect and connection."""

    service_generation: ServiceGeneration = "sdk-2.1"
    base_url: str = "http://127.0.0.1:1"
    inside: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    sessions: int = 0
    held_until: float = 0.0
    duration_s: float = 0.0
    stands_still_s: float = 0.0
    broken: set[str] = field(default_factory=set)
    measured: dict[str, float] | None = None
    kept_mb: float = 0.0

    def __post_init__(self) -> None:
        self.dialect = self
        self.capabilities = CAPABILITIES[self.service_generation]
        self.stored_responses = Stored()

    async def load(self, model: Model) -> None:
        self.asked.append(f"load {model.alias}")
        await asyncio.sleep(self.duration_s)
        if model.alias in self.broken:
            raise errors.ModelLoadFailed("its files are broken")
        self.inside.add(model.id)

    async def unload(self, model: Model) -> None:
        self.asked.append(f"unload {model.alias}")
        held = self.sessions or World.now() < self.held_until
        stands_still_s, self.stands_still_s = self.stands_still_s, 0.0
        await asyncio.sleep(stands_still_s)
        if held:
            self.sessions = max(self.sessions - 1, 0)
            raise errors.ModelInUse("1 session(s) still using it")
        self.inside.discard(model.id)

    async def get_loaded_ids(self, _catalog: Catalog | None = None) -> frozenset[str]:
        return frozenset(self.inside)

    async def loaded_model_ids(self) -> frozenset[str]:
        return frozenset(self.inside)

    async def models_memory_mb(self) -> float | None:
        if self.measured is None:
            return None
        return self.kept_mb + sum(self.measured.get(each, 0.0) for each in self.inside)

    async def describe(self, model: Model) -> Model:
        name = model.id.partition(":")[0]
        return msgspec.structs.replace(model, alias=name, size_mb=SIZES.get(name))


@dataclass
class Shared(NoCoordination):
    """Other clients, at the test's word; a double of the home's file."""

    is_shared = True  # type: ignore[misc]
    holders: dict[str, ModelUser] = field(default_factory=dict)
    rows: dict[str, KnownModel] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    unloading: asyncio.Event | None = None

    async def claim(self, model_id: str) -> None:
        self.told.append(f"claim {model_id}")
        if self.unloading:
            await self.unloading.wait()

    async def renew(self, last_used: Mapping[str, float]) -> Iterable[str]:
        self.told += [f"renew {model_id} {last:g}" for model_id, last in last_used.items()]
        return self.lost

    @asynccontextmanager
    async def lease(
        self, model_id: str, change: str, *, for_s: float, quiet_s: float | None = None
    ) -> AsyncGenerator[None]:
        assert for_s > 0
        if quiet_s is not None and model_id in self.holders:
            users = (self.holders[model_id],)
            raise errors.ModelInUse("somebody uses it", model=model_id).with_users(users)
        self.told.append(f"lease {model_id} {change}")
        yield
        self.told.append(f"back {model_id}")

    async def record_loaded(self, model: Model) -> None:
        self.rows[model.id] = KnownModel(model, 0.0, ())

    async def record_unloaded(self, model_id: str) -> None:
        self.rows.pop(model_id, None)

    async def list_users(self, model_id: str) -> tuple[ModelUser, ...]:
        return (self.holders[model_id],) if model_id in self.holders else ()

    async def known_models(self) -> Mapping[str, KnownModel] | None:
        return self.rows


class World:
    """A memory, its engine, and all that happens."""

    def __init__(
        self, engine: Engine | None = None, others: NoCoordination | None = None, **policy: float
    ) -> None:
        self.engine = engine or Engine()
        self.events: list[Event] = []
        self.policy = ModelResidency(**policy)  # type: ignore[arg-type]
        self.keeper = IdleUnloader(lambda: [self.memory], self.policy, self.now)
        self.keeping = ResidencyContext(
            policy=self.policy,
            events=EventBus(self.events.append),
            wake=self.keeper.notify,
            monotonic=self.now,
        )
        self.memory = self.connect(others)

    def connect(self, others: NoCoordination | None = None) -> ModelManager:
        return ModelManager(self.engine, others or NoCoordination(), self.keeping)  # type: ignore[arg-type]

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time()

    async def call(self, model: Model, seconds: float) -> float:
        """A call that takes so long. When it began."""
        while not self.memory.is_loaded(model.id):
            await self.memory.load(model)
        began, uses = self.now(), self.memory.begin_use(model.id)
        assert model.id in self.engine.inside
        await asyncio.sleep(seconds)
        assert model.id in self.engine.inside, "unloaded under a call"
        self.memory.end_use(uses)
        return began

    async def called(self, model: Model, seconds: float) -> asyncio.Task[float]:
        """A call that has begun."""
        await self.memory.load(model)
        task = asyncio.create_task(self.call(model, seconds))
        await asyncio.sleep(0)
        return task

    def reasons(self) -> list[tuple[str, str]]:
        unloads = [event for event in self.events if isinstance(event, ModelUnloaded)]
        return [(event.model, event.reason) for event in unloads]


# --- draining ---------------------------------------------------------------------------------


def test_a_model_leaves_when_its_calls_have_ended_and_later_ones_load_it_again(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(duration_s=2.0))
        first = await world.called(A, 10)
        unloading = asyncio.create_task(world.memory.unload(A))
        await asyncio.sleep(1)
        later = [asyncio.create_task(world.call(A, 1)) for _ in range(3)]
        await unloading
        assert first.done()
        assert world.now() == 12
        assert await asyncio.gather(*later) == [14, 14, 14]
        assert world.engine.asked == ["load a", "unload a", "load a"]
        assert world.reasons() == [("a:1", "asked")]

    run(scene())


def test_calls_that_do_not_end_in_time_keep_the_model_and_the_error_counts_them(run: Run) -> None:
    async def scene() -> None:
        world = World()
        calls = [await world.called(A, 100) for _ in range(2)]
        waiting = asyncio.create_task(world.memory.unload(A, drain_s=30))
        await asyncio.sleep(1)
        later = asyncio.create_task(world.call(A, 1))
        with pytest.raises(errors.ModelInUse, match=r"after 30 s: 2 calls of .*pid") as caught:
            await waiting
        assert [user.in_flight for user in caught.value.users] == [2]
        assert world.now() == 30
        assert await later == 30, "who waited goes on with the model that stayed"
        assert world.engine.asked == ["load a"]
        await asyncio.gather(*calls)

    run(scene())


def test_an_engine_that_lets_go_a_moment_later_is_asked_again(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(sessions=3))
        await world.memory.load(A)
        await world.memory.unload(A, drain_s=0)
        assert world.engine.asked == ["load a", *["unload a"] * 4]

    run(scene())


def test_what_a_call_of_ours_leaves_behind_may_take_seconds_to_go(run: Run) -> None:
    """An engine on a busy machine: the answer is complete, but its thread gets no turn to end."""

    async def scene() -> None:
        world = World()
        await world.call(A, 10)
        world.engine.held_until = 13
        await world.memory.unload(A, drain_s=0)
        assert 13 <= world.now() < 13.2

    run(scene())


def test_also_where_it_is_forced(run: Run) -> None:
    async def scene() -> None:
        world = World()
        await world.call(A, 10)
        world.engine.held_until = 13
        await world.memory.unload(A, force=True)
        assert 13 <= world.now() < 13.2

    run(scene())


def test_what_is_held_for_longer_is_somebody_elses(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(sessions=10**6))
        await world.call(A, 10)
        with pytest.raises(errors.ModelInUse, match="1 session"):
            await world.memory.unload(A, drain_s=0)
        assert 15 <= world.now() < 15.2
        with pytest.raises(errors.ModelInUse, match="1 session"):
            await world.memory.unload(A, drain_s=0)
        assert world.now() < 15.6, "our call is long gone, so it is not waited for again"
        assert world.memory.is_loaded("a:1")

    run(scene())


def test_a_machine_that_stood_still_meanwhile_is_asked_once_more(run: Run) -> None:
    """The time is over by then, but that first answer is as old as the question."""

    async def scene() -> None:
        world = World(Engine(held_until=0.001, stands_still_s=60))
        await world.memory.load(A)
        await world.memory.unload(A, drain_s=0)
        assert world.engine.asked == ["load a", *["unload a"] * 2]

    run(scene())


def test_stored_responses_of_ours_are_released_for_an_unloading(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(sessions=1))
        world.engine.stored_responses.free = 2
        await world.memory.load(A)
        await world.memory.unload(A, drain_s=0, force=True)
        assert world.engine.asked == ["load a", *["unload a"] * 2]
        assert world.engine.stored_responses.free == 0

    run(scene())


def test_stored_responses_that_somebody_keeps_are_named(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(sessions=10**6))
        world.engine.stored_responses.kept = ("resp_1", "resp_2")
        await world.call(A, 10)
        with pytest.raises(errors.ModelInUse) as caught:
            await world.memory.unload(A, drain_s=0)
        assert "resp_1, resp_2" in caught.value.hint
        assert world.now() < 10.5, "it is known what keeps it, and that it will not go by itself"

    run(scene())


def test_sessions_that_are_not_ours_are_waited_for_only_so_long(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(sessions=10**6))
        await world.memory.load(A)
        with pytest.raises(errors.ModelInUse, match="1 session") as caught:
            await world.memory.unload(A, drain_s=5)
        assert caught.value.model == "a:1"
        assert 5 <= world.now() < 5.1
        assert world.memory.is_loaded("a:1")

    run(scene())


def test_force_neither_waits_nor_asks_twice(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(sessions=1), Shared(holders={"a:1": THEM}))
        call = await world.called(A, 10)
        with pytest.raises(errors.ModelInUse, match="1 session"):
            await world.memory.unload(A, force=True)
        assert world.now() == 0
        await call

    run(scene())


def test_force_is_no_reason_to_kill_a_service_of_sdk_1(run: Run) -> None:
    """Asked to unload while it generates, it dies of a segmentation fault."""

    async def scene() -> None:
        world = World(Engine("sdk-1"))
        call = await world.called(A, 10)
        await world.memory.unload(A, force=True)
        assert call.done()
        call = await world.called(A, 100)
        with pytest.raises(errors.ModelInUse, match="after 30 s"):
            await world.memory.unload(A, force=True)
        assert world.engine.asked.count("unload a") == 1
        await call

    run(scene())


def test_on_sdk_1_force_heeds_other_clients_too(run: Run) -> None:
    async def scene() -> None:
        others = Shared(holders={"a:1": THEM})
        world = World(Engine("sdk-1"), others)
        with pytest.raises(errors.ModelInUse, match="somebody"):
            await world.memory.unload(A, force=True)
        await World(Engine("sdk-2.0"), others).memory.unload(A, force=True)
        assert world.engine.asked == []

    run(scene())


def test_calls_over_a_connection_that_was_given_up_still_count(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine("sdk-1"))
        call = await world.called(A, 10)
        world.memory = world.connect()
        await world.memory.unload(A)
        assert call.done()

    run(scene())


def test_a_cancelled_unload_leaves_a_model_that_can_be_called(run: Run) -> None:
    async def scene() -> None:
        world = World()
        call = await world.called(A, 10)
        unloading = asyncio.create_task(world.memory.unload(A))
        await asyncio.sleep(1)
        unloading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unloading
        assert await world.call(A, 1) == 1
        await call

    run(scene())


def test_unloading_what_is_not_there_tells_of_nothing(run: Run) -> None:
    async def scene() -> None:
        world = World()
        await world.memory.unload(A)
        assert world.events == []

    run(scene())


def test_loading_and_unloading_in_a_crowd_never_harms_a_call(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(duration_s=0.5))

        async def caller(number: int) -> None:
            for turn in range(20):
                await world.call(A, 0.1 + (number * turn) % 7 / 10)
                await asyncio.sleep((number + turn) % 3)

        async def unloader() -> None:
            for _ in range(20):
                await world.memory.unload(A)
                await asyncio.sleep(1)

        await asyncio.gather(*map(caller, range(5)), unloader(), unloader())
        assert world.engine.asked.count("unload a") == 40
        assert world.engine.asked.count("load a") > 10

    run(scene())


# --- other clients ----------------------------------------------------------------------------


def test_a_model_is_claimed_before_it_is_looked_for_and_loaded_in_a_lease(run: Run) -> None:
    async def scene() -> None:
        others = Shared()
        world = World(others=others)
        await world.memory.load(A)
        assert others.told == ["claim a:1", "lease a:1 load", "back a:1"]
        (event,) = world.events
        assert isinstance(event, ModelLoaded)

    run(scene())


def test_a_model_that_another_client_loaded_is_not_loaded_again(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(inside={"a:1"}), Shared())
        await world.memory.load(A)
        assert world.memory.is_loaded("a:1")
        assert (world.engine.asked, world.events) == ([], [])

    run(scene())


def test_who_loads_waits_while_another_client_unloads(run: Run) -> None:
    async def scene() -> None:
        others = Shared(unloading=asyncio.Event())
        world = World(others=others)
        asyncio.get_running_loop().call_later(5, others.unloading.set)  # type: ignore[union-attr]
        assert await world.call(A, 1) == 5

    run(scene())


def test_a_model_that_another_client_uses_stays_and_the_error_says_whose_it_is(run: Run) -> None:
    async def scene() -> None:
        world = World(others=Shared(holders={"a:1": THEM}))
        await world.memory.load(A)
        with pytest.raises(errors.ModelInUse) as caught:
            await world.memory.unload(A)
        assert caught.value.users == (THEM,)
        assert world.memory.is_loaded("a:1")
        mine, theirs = await world.memory.users("a:1")
        assert (mine.in_flight, theirs) == (0, THEM)

    run(scene())


def test_a_use_that_goes_on_is_renewed_in_the_background_and_then_no_more(run: Run) -> None:
    async def scene() -> None:
        others = Shared()
        world = World(others=others, hold_s=60)
        call = await world.called(A, 25)
        await call
        assert [told for told in others.told if "renew" in told] == ["renew a:1 10", "renew a:1 20"]
        await asyncio.sleep(1000)
        assert others.told[-1] == "renew a:1 25"
        task = world.keeper._task
        assert task
        assert task.done(), "nobody is looked after any more"

    run(scene())


def test_after_a_rest_the_claim_is_made_anew_before_a_call(run: Run) -> None:
    async def scene() -> None:
        others = Shared()
        world = World(others=others, hold_s=60)
        await world.call(A, 1)
        await asyncio.sleep(30)
        await world.call(A, 1)
        assert others.told.count("claim a:1") == 1
        await asyncio.sleep(60)
        world.engine.inside.clear()
        await world.call(A, 1)
        assert others.told.count("claim a:1") == 2
        assert world.engine.asked == ["load a", "load a"]
        await world.keeper.aclose()

    run(scene())


def test_a_claim_that_was_lost_is_made_anew_by_the_next_call(run: Run) -> None:
    async def scene() -> None:
        others = Shared(lost={"a:1"})
        world = World(others=others, hold_s=60)
        await world.call(A, 12)
        assert not world.memory.is_loaded("a:1")
        world.engine.inside.clear()
        await world.call(A, 1)
        assert world.engine.asked == ["load a", "load a"]
        await world.keeper.aclose()

    run(scene())


def test_when_the_loop_ends_its_claims_are_no_longer_trusted() -> None:
    """Else a call in the next loop would count on renewals that nobody makes."""
    others = Shared()
    world = World(others=others)
    asyncio.run(world.memory.load(A))

    async def later() -> bool:
        return world.memory.is_loaded("a:1")

    assert not asyncio.run(later())


# --- idleness ---------------------------------------------------------------------------------


def test_a_model_that_nobody_calls_is_unloaded(run: Run) -> None:
    async def scene() -> None:
        world = World(keep_alive_s=100)
        await world.call(A, 500)
        await asyncio.sleep(99)
        assert world.memory.is_loaded("a:1")
        await asyncio.sleep(2)
        assert not world.memory.is_loaded("a:1")
        assert world.reasons() == [("a:1", "idle")]
        await world.call(A, 1)
        await world.keeper.aclose()

    run(scene())


def test_each_call_starts_the_time_anew(run: Run) -> None:
    async def scene() -> None:
        world = World(keep_alive_s=100)
        for _ in range(10):
            await world.call(A, 1)
            await asyncio.sleep(98)
        assert world.engine.asked == ["load a"]
        await world.keeper.aclose()

    run(scene())


def test_an_idle_model_that_another_client_uses_stays_until_it_does_not(run: Run) -> None:
    async def scene() -> None:
        others = Shared(holders={"a:1": THEM})
        world = World(others=others, keep_alive_s=100)
        await world.call(A, 0)
        await asyncio.sleep(1000)
        assert world.engine.asked == ["load a"]
        others.holders.clear()
        await asyncio.sleep(11)
        assert world.engine.asked == ["load a", "unload a"]

    run(scene())


def test_an_idle_model_that_a_stranger_loaded_stays(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(inside={"a:1"}), Shared(), keep_alive_s=100)
        await world.call(A, 0)
        await asyncio.sleep(1000)
        assert world.engine.asked == []
        task = world.keeper._task
        assert task
        assert task.done()

    run(scene())


def test_a_service_that_is_gone_is_no_reason_to_give_up_looking(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        world = World(keep_alive_s=100)
        await world.call(A, 0)

        async def gone(_model: Model) -> None:
            raise errors.ServiceNotRunning("nobody is there")

        world.engine.unload = gone  # type: ignore[method-assign]
        await asyncio.sleep(101)
        assert "could not be unloaded" in caplog.text
        await world.call(B, 0)
        await world.keeper.aclose()

    run(scene())


def test_a_client_that_closes_ends_the_looking_after(run: Run) -> None:
    async def scene() -> None:
        world = World(keep_alive_s=100)
        await world.call(A, 0)
        await world.keeper.aclose()
        await asyncio.sleep(1000)
        assert world.engine.asked == ["load a"]

    run(scene())


# --- the budget -------------------------------------------------------------------------------


def test_the_least_recently_used_makes_room(run: Run) -> None:
    async def scene() -> None:
        world = World(memory_budget_mb=700)
        for each in (A, B, A, C):
            await world.call(each, 1)
        assert world.engine.asked == ["load a", "load b", "unload b", "load c"]
        assert world.reasons() == [("b:1", "budget")]
        assert world.engine.inside == {"a:1", "c:1"}

    run(scene())


def test_what_another_client_uses_stays_whatever_its_age(run: Run) -> None:
    async def scene() -> None:
        others = Shared(rows={}, holders={"a:1": THEM})
        world = World(others=others, max_loaded=2)
        await world.call(A, 1)
        await world.call(B, 1)
        others.rows["a:1"] = KnownModel(A, 0.0, (THEM,))
        await world.call(C, 1)
        assert world.engine.inside == {"a:1", "c:1"}
        others.rows["c:1"] = KnownModel(C, 0.0, (THEM,))
        with pytest.raises(errors.MemoryBudgetExceeded, match=r"used by chat\.py") as caught:
            await world.call(B, 1)
        assert caught.value.users == (THEM, THEM)
        await world.keeper.aclose()

    run(scene())


def test_what_a_stranger_loaded_stays_and_counts(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        caplog.set_level("INFO")
        world = World(Engine(inside={"a:1", "x:1"}), Shared(), memory_budget_mb=500)
        with pytest.raises(errors.MemoryBudgetExceeded, match=r"a:1 \(400 MB, loaded by a prog"):
            await world.call(C, 1)
        assert world.engine.asked == []
        assert "counted as 0 MB, as their size is unknown: x:1" in caplog.text
        await world.keeper.aclose()

    run(scene())


def test_a_model_with_calls_in_flight_is_waited_for_when_there_is_no_other_room(run: Run) -> None:
    """A program that calls two models in turn, with room for one, is slow; it does not fail."""

    async def scene() -> None:
        world = World(max_loaded=1)
        calls = [world.call(each, 2) for each in (A, B, C, A, B, C)]
        await asyncio.gather(*calls)
        assert world.engine.asked.count("load a") == 1, "both callers of a model use it at once"
        assert world.now() == 6

    run(scene())


def test_one_that_turns_out_to_be_used_is_passed_over(run: Run) -> None:
    async def scene() -> None:
        others = Shared()
        world = World(others=others, max_loaded=2)
        await world.call(A, 1)
        await world.call(B, 1)
        others.holders["a:1"] = THEM  # since the look, as far as the plan knows
        await world.call(C, 1)
        assert world.engine.inside == {"a:1", "c:1"}
        await world.keeper.aclose()

    run(scene())


def test_a_model_larger_than_the_budget_empties_nothing(run: Run) -> None:
    async def scene() -> None:
        world = World(memory_budget_mb=700)
        await world.call(A, 1)
        with pytest.raises(errors.MemoryBudgetExceeded, match="2000 MB"):
            await world.call(model("huge"), 1)
        assert world.engine.inside == {"a:1"}

    run(scene())


def test_memory_that_is_measured_counts_more_than_files(run: Run) -> None:
    """The files say 400 and 300 MB; in memory they are twice that."""

    async def scene() -> None:
        engine = Engine(measured={"a:1": 800.0, "b:1": 600.0})
        world = World(engine, memory_budget_mb=1000)
        await world.call(A, 1)
        await world.call(B, 1)
        assert engine.asked == ["load a", "unload a", "load b"]
        assert world.reasons() == [("a:1", "budget")]
        await world.keeper.aclose()

    run(scene())


def test_a_model_that_takes_more_memory_than_its_files_say_is_unloaded_again(run: Run) -> None:
    async def scene() -> None:
        engine = Engine(measured={"a:1": 1139.0, "c:1": 200.0})
        world = World(engine, memory_budget_mb=500)
        await world.call(C, 1)
        with pytest.raises(errors.MemoryBudgetExceeded, match="a:1, which takes 1139 MB") as caught:
            await world.call(A, 1)
        assert "the budget is 500 MB" in caught.value.message
        assert engine.inside == set()
        asked = len(engine.asked)
        with pytest.raises(errors.MemoryBudgetExceeded, match="1139 MB by itself"):
            await world.call(A, 1)
        assert len(engine.asked) == asked, "its size is known now: it is not loaded again"
        await world.keeper.aclose()

    run(scene())


def test_memory_that_calls_leave_behind_costs_idle_models_their_place(run: Run) -> None:
    async def scene() -> None:
        engine = Engine(measured={"b:1": 300.0, "c:1": 200.0})
        world = World(engine, memory_budget_mb=600)
        await world.call(B, 1)
        await world.call(C, 1)
        engine.kept_mb = 150.0  # a long prompt was read
        await world.call(C, 1)
        await asyncio.sleep(5)
        assert engine.inside == {"c:1"}, "the least recently used one left"
        engine.kept_mb = 500.0
        await world.call(C, 1)
        await asyncio.sleep(5)
        assert engine.inside == set()
        await world.keeper.aclose()

    run(scene())


def test_a_model_in_use_stays_though_it_outgrows_the_budget(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        engine = Engine(measured={"b:1": 300.0, "c:1": 200.0})
        world = World(engine, memory_budget_mb=600)
        long = asyncio.create_task(world.call(B, 60))
        short = asyncio.create_task(world.call(C, 2))
        await asyncio.sleep(1)
        engine.kept_mb = 900.0
        await short
        await asyncio.sleep(5)
        assert engine.inside == {"b:1"}
        assert "MB more than the memory budget of 600 MB" in caplog.text
        await long
        await asyncio.sleep(5)
        assert engine.inside == set()
        await world.keeper.aclose()

    run(scene())


def test_what_the_engine_keeps_of_models_that_are_gone_is_room_for_the_next(run: Run) -> None:
    async def scene() -> None:
        engine = Engine(measured={"a:1": 400.0}, kept_mb=150.0)
        world = World(engine, memory_budget_mb=600)
        await world.call(A, 1)
        assert engine.inside == {"a:1"}
        await world.keeper.aclose()

    run(scene())


def test_models_that_are_loaded_at_once_keep_to_the_budget(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(duration_s=1.0), max_loaded=2)
        await asyncio.gather(*(world.memory.load(each) for each in (A, B, C)))
        assert len(world.engine.inside) == 2

    run(scene())


def test_a_load_that_fails_is_not_taken_for_one(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(broken={"a"}), Shared())
        with pytest.raises(errors.ModelLoadFailed):
            await world.memory.load(A)
        assert not world.memory.is_loaded("a:1")
        assert world.events == []
        await world.keeper.aclose()

    run(scene())
