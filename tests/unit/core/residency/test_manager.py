"""Loading and unloading of models while calls use them."""

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
    from support.virtual_time import Run

SIZES = {"a": 400, "b": 300, "c": 200, "huge": 2000}


def model(name: str) -> Model:
    return Model(id=f"{name}:1", alias=name, catalog="local", cached=True)


A, B, C = map(model, "abc")
THEM = ModelUser(program="chat.py", pid=7, last_used_s=4.0)


@dataclass
class Stored:
    """A double of `StoredResponses`.

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
    """A double of dialect and connection, with models in memory."""

    service_generation: ServiceGeneration = "sdk-2.1"
    base_url: str = "http://127.0.0.1:1"
    inside: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
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
        self.requests.append(f"load {model.alias}")
        await asyncio.sleep(self.duration_s)
        if model.alias in self.broken:
            raise errors.ModelLoadFailed("its files are broken")
        self.inside.add(model.id)

    async def unload(self, model: Model) -> None:
        self.requests.append(f"unload {model.alias}")
        is_in_use = self.sessions or World.now() < self.held_until
        stands_still_s, self.stands_still_s = self.stands_still_s, 0.0
        await asyncio.sleep(stands_still_s)
        if is_in_use:
            self.sessions = max(self.sessions - 1, 0)
            raise errors.ModelInUse("1 session(s) still using it")
        self.inside.discard(model.id)

    async def get_loaded_ids(self, _catalog: Catalog | None = None) -> frozenset[str]:
        return frozenset(self.inside)

    async def list_loaded_ids(self) -> frozenset[str]:
        return frozenset(self.inside)

    async def measure_models_mb(self) -> float | None:
        if self.measured is None:
            return None
        return self.kept_mb + sum(self.measured.get(item, 0.0) for item in self.inside)

    async def describe(self, model: Model) -> Model:
        name = model.id.partition(":")[0]
        return msgspec.structs.replace(model, alias=name, size_mb=SIZES.get(name))


@dataclass
class Shared(NoCoordination):
    """Other clients, as a test sets them; a double of the usage file."""

    is_shared = True  # type: ignore[misc]
    holders: dict[str, ModelUser] = field(default_factory=dict)
    rows: dict[str, KnownModel] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    unloading: asyncio.Event | None = None

    async def claim(self, model_id: str) -> None:
        self.calls.append(f"claim {model_id}")
        if self.unloading:
            await self.unloading.wait()

    async def renew(self, last_used: Mapping[str, float]) -> Iterable[str]:
        self.calls += [f"renew {model_id} {last:g}" for model_id, last in last_used.items()]
        return self.lost

    @asynccontextmanager
    async def lease(
        self, model_id: str, change: str, *, for_s: float, quiet_s: float | None = None
    ) -> AsyncGenerator[None]:
        assert for_s > 0
        if quiet_s is not None and model_id in self.holders:
            users = (self.holders[model_id],)
            raise errors.ModelInUse("somebody uses it", model=model_id).with_users(users)
        self.calls.append(f"lease {model_id} {change}")
        yield
        self.calls.append(f"back {model_id}")

    async def record_loaded(self, model: Model) -> None:
        self.rows[model.id] = KnownModel(model, 0.0, ())

    async def record_unloaded(self, model_id: str) -> None:
        self.rows.pop(model_id, None)

    async def list_users(self, model_id: str) -> tuple[ModelUser, ...]:
        return (self.holders[model_id],) if model_id in self.holders else ()

    async def list_known_models(self) -> Mapping[str, KnownModel] | None:
        return self.rows


class World:
    """A model manager with its engine and its events."""

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
        """Make a call that takes `seconds`, and return its start."""
        while not self.memory.is_loaded(model.id):
            await self.memory.load(model)
        began, uses = self.now(), self.memory.begin_use(model.id)
        assert model.id in self.engine.inside
        await asyncio.sleep(seconds)
        assert model.id in self.engine.inside, "unloaded under a call"
        self.memory.end_use(uses)
        return began

    async def called(self, model: Model, seconds: float) -> asyncio.Task[float]:
        """Return a call that has started."""
        await self.memory.load(model)
        task = asyncio.create_task(self.call(model, seconds))
        await asyncio.sleep(0)
        return task

    def reasons(self) -> list[tuple[str, str]]:
        unloads = [event for event in self.events if isinstance(event, ModelUnloaded)]
        return [(event.model, event.reason) for event in unloads]


# --- draining ---------------------------------------------------------------------------------


def test_model_is_unloaded_after_its_calls_and_later_calls_load_it_again(run: Run) -> None:
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
        assert world.engine.requests == ["load a", "unload a", "load a"]
        assert world.reasons() == [("a:1", "requested")]

    run(scene())


def test_calls_that_do_not_end_in_time_keep_the_model(run: Run) -> None:
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
        assert await later == 30, "the waiting call uses the model that stayed"
        assert world.engine.requests == ["load a"]
        await asyncio.gather(*calls)

    run(scene())


def test_unload_is_repeated_if_the_engine_releases_the_model_late(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(sessions=3))
        await world.memory.load(A)
        await world.memory.unload(A, drain_s=0)
        assert world.engine.requests == ["load a", *["unload a"] * 4]

    run(scene())


def test_engine_may_hold_the_model_for_seconds_after_our_call(run: Run) -> None:
    """On a busy machine the answer is complete, but the engine's thread has not ended yet."""

    async def scene() -> None:
        world = World()
        await world.call(A, 10)
        world.engine.held_until = 13
        await world.memory.unload(A, drain_s=0)
        assert 13 <= world.now() < 13.2

    run(scene())


def test_engine_may_hold_the_model_also_for_a_forced_unload(run: Run) -> None:
    async def scene() -> None:
        world = World()
        await world.call(A, 10)
        world.engine.held_until = 13
        await world.memory.unload(A, force=True)
        assert 13 <= world.now() < 13.2

    run(scene())


def test_longer_use_must_be_by_another_program(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(sessions=10**6))
        await world.call(A, 10)
        with pytest.raises(errors.ModelInUse, match="1 session"):
            await world.memory.unload(A, drain_s=0)
        assert 15 <= world.now() < 15.2
        with pytest.raises(errors.ModelInUse, match="1 session"):
            await world.memory.unload(A, drain_s=0)
        assert world.now() < 15.6, "our call ended long ago, so it is not awaited again"
        assert world.memory.is_loaded("a:1")

    run(scene())


def test_unload_is_tried_once_more_after_the_machine_was_suspended(run: Run) -> None:
    """The time is over, but the first refusal is from before the suspension."""

    async def scene() -> None:
        world = World(Engine(held_until=0.001, stands_still_s=60))
        await world.memory.load(A)
        await world.memory.unload(A, drain_s=0)
        assert world.engine.requests == ["load a", *["unload a"] * 2]

    run(scene())


def test_own_stored_responses_are_released_for_an_unload(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(sessions=1))
        world.engine.stored_responses.free = 2
        await world.memory.load(A)
        await world.memory.unload(A, drain_s=0, force=True)
        assert world.engine.requests == ["load a", *["unload a"] * 2]
        assert world.engine.stored_responses.free == 0

    run(scene())


def test_stored_responses_of_a_conversation_are_named_in_the_error(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(sessions=10**6))
        world.engine.stored_responses.kept = ("resp_1", "resp_2")
        await world.call(A, 10)
        with pytest.raises(errors.ModelInUse) as caught:
            await world.memory.unload(A, drain_s=0)
        assert "resp_1, resp_2" in caught.value.hint
        assert world.now() < 10.5, "it is in use by a known response, so waiting would be in vain"

    run(scene())


def test_sessions_of_other_programs_are_awaited_only_briefly(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(sessions=10**6))
        await world.memory.load(A)
        with pytest.raises(errors.ModelInUse, match="1 session") as caught:
            await world.memory.unload(A, drain_s=5)
        assert caught.value.model == "a:1"
        assert 5 <= world.now() < 5.1
        assert world.memory.is_loaded("a:1")

    run(scene())


def test_force_does_not_wait_or_retry(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(sessions=1), Shared(holders={"a:1": THEM}))
        call = await world.called(A, 10)
        with pytest.raises(errors.ModelInUse, match="1 session"):
            await world.memory.unload(A, force=True)
        assert world.now() == 0
        await call

    run(scene())


def test_force_does_not_crash_a_service_of_sdk_1(run: Run) -> None:
    """It crashes if it unloads a model while it generates."""

    async def scene() -> None:
        world = World(Engine("sdk-1"))
        call = await world.called(A, 10)
        await world.memory.unload(A, force=True)
        assert call.done()
        call = await world.called(A, 100)
        with pytest.raises(errors.ModelInUse, match="after 30 s"):
            await world.memory.unload(A, force=True)
        assert world.engine.requests.count("unload a") == 1
        await call

    run(scene())


def test_force_on_sdk_1_respects_other_clients(run: Run) -> None:
    async def scene() -> None:
        others = Shared(holders={"a:1": THEM})
        world = World(Engine("sdk-1"), others)
        with pytest.raises(errors.ModelInUse, match="somebody"):
            await world.memory.unload(A, force=True)
        await World(Engine("sdk-2.0"), others).memory.unload(A, force=True)
        assert world.engine.requests == []

    run(scene())


def test_calls_over_a_dropped_connection_still_count(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine("sdk-1"))
        call = await world.called(A, 10)
        world.memory = world.connect()
        await world.memory.unload(A)
        assert call.done()

    run(scene())


def test_model_is_usable_after_a_cancelled_unload(run: Run) -> None:
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


def test_unloading_an_unloaded_model_emits_no_event(run: Run) -> None:
    async def scene() -> None:
        world = World()
        await world.memory.unload(A)
        assert world.events == []

    run(scene())


def test_concurrent_loads_and_unloads_never_disturb_a_call(run: Run) -> None:
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
        assert world.engine.requests.count("unload a") == 40
        assert world.engine.requests.count("load a") > 10

    run(scene())


# --- other clients ----------------------------------------------------------------------------


def test_model_is_claimed_before_the_check_and_loaded_in_a_lease(run: Run) -> None:
    async def scene() -> None:
        others = Shared()
        world = World(others=others)
        await world.memory.load(A)
        assert others.calls == ["claim a:1", "lease a:1 load", "back a:1"]
        (event,) = world.events
        assert isinstance(event, ModelLoaded)

    run(scene())


def test_model_loaded_by_another_client_is_not_loaded_again(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(inside={"a:1"}), Shared())
        await world.memory.load(A)
        assert world.memory.is_loaded("a:1")
        assert (world.engine.requests, world.events) == ([], [])

    run(scene())


def test_load_waits_for_the_unload_of_another_client(run: Run) -> None:
    async def scene() -> None:
        others = Shared(unloading=asyncio.Event())
        world = World(others=others)
        asyncio.get_running_loop().call_later(5, others.unloading.set)  # type: ignore[union-attr]
        assert await world.call(A, 1) == 5

    run(scene())


def test_model_used_by_another_client_is_not_unloaded(run: Run) -> None:
    async def scene() -> None:
        world = World(others=Shared(holders={"a:1": THEM}))
        await world.memory.load(A)
        with pytest.raises(errors.ModelInUse) as caught:
            await world.memory.unload(A)
        assert caught.value.users == (THEM,)
        assert world.memory.is_loaded("a:1")
        mine, theirs = await world.memory.list_users("a:1")
        assert (mine.in_flight, theirs) == (0, THEM)

    run(scene())


def test_claim_is_renewed_in_the_background_during_use_only(run: Run) -> None:
    async def scene() -> None:
        others = Shared()
        world = World(others=others, hold_s=60)
        call = await world.called(A, 25)
        await call
        assert [call for call in others.calls if "renew" in call] == [
            "renew a:1 10",
            "renew a:1 20",
        ]
        await asyncio.sleep(1000)
        assert others.calls[-1] == "renew a:1 25"
        task = world.keeper._task
        assert task
        assert task.done(), "the idle task has ended"

    run(scene())


def test_expired_claim_is_made_again_before_a_call(run: Run) -> None:
    async def scene() -> None:
        others = Shared()
        world = World(others=others, hold_s=60)
        await world.call(A, 1)
        await asyncio.sleep(30)
        await world.call(A, 1)
        assert others.calls.count("claim a:1") == 1
        await asyncio.sleep(60)
        world.engine.inside.clear()
        await world.call(A, 1)
        assert others.calls.count("claim a:1") == 2
        assert world.engine.requests == ["load a", "load a"]
        await world.keeper.aclose()

    run(scene())


def test_lost_claim_is_made_again_by_the_next_call(run: Run) -> None:
    async def scene() -> None:
        others = Shared(lost={"a:1"})
        world = World(others=others, hold_s=60)
        await world.call(A, 12)
        assert not world.memory.is_loaded("a:1")
        world.engine.inside.clear()
        await world.call(A, 1)
        assert world.engine.requests == ["load a", "load a"]
        await world.keeper.aclose()

    run(scene())


def test_claims_are_not_trusted_after_their_loop_has_ended() -> None:
    """Otherwise a call in the next loop would rely on renewals that no task makes."""
    others = Shared()
    world = World(others=others)
    asyncio.run(world.memory.load(A))

    async def later() -> bool:
        return world.memory.is_loaded("a:1")

    assert not asyncio.run(later())


# --- idleness ---------------------------------------------------------------------------------


def test_idle_model_is_unloaded(run: Run) -> None:
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


def test_each_call_restarts_the_idle_time(run: Run) -> None:
    async def scene() -> None:
        world = World(keep_alive_s=100)
        for _ in range(10):
            await world.call(A, 1)
            await asyncio.sleep(98)
        assert world.engine.requests == ["load a"]
        await world.keeper.aclose()

    run(scene())


def test_idle_model_used_by_another_client_stays_until_it_is_free(run: Run) -> None:
    async def scene() -> None:
        others = Shared(holders={"a:1": THEM})
        world = World(others=others, keep_alive_s=100)
        await world.call(A, 0)
        await asyncio.sleep(1000)
        assert world.engine.requests == ["load a"]
        others.holders.clear()
        await asyncio.sleep(11)
        assert world.engine.requests == ["load a", "unload a"]

    run(scene())


def test_idle_model_loaded_by_another_program_stays(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(inside={"a:1"}), Shared(), keep_alive_s=100)
        await world.call(A, 0)
        await asyncio.sleep(1000)
        assert world.engine.requests == []
        task = world.keeper._task
        assert task
        assert task.done()

    run(scene())


def test_failed_unload_does_not_end_the_idle_task(
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


def test_closing_the_client_ends_the_idle_task(run: Run) -> None:
    async def scene() -> None:
        world = World(keep_alive_s=100)
        await world.call(A, 0)
        await world.keeper.aclose()
        await asyncio.sleep(1000)
        assert world.engine.requests == ["load a"]

    run(scene())


# --- the budget -------------------------------------------------------------------------------


def test_least_recently_used_model_makes_room(run: Run) -> None:
    async def scene() -> None:
        world = World(memory_budget_mb=700)
        for item in (A, B, A, C):
            await world.call(item, 1)
        assert world.engine.requests == ["load a", "load b", "unload b", "load c"]
        assert world.reasons() == [("b:1", "budget")]
        assert world.engine.inside == {"a:1", "c:1"}

    run(scene())


def test_model_used_by_another_client_stays_whatever_its_age(run: Run) -> None:
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


def test_model_loaded_by_another_program_stays_and_counts(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        caplog.set_level("INFO")
        world = World(Engine(inside={"a:1", "x:1"}), Shared(), memory_budget_mb=500)
        with pytest.raises(errors.MemoryBudgetExceeded, match=r"a:1 \(400 MB, loaded by a prog"):
            await world.call(C, 1)
        assert world.engine.requests == []
        assert "counted as 0 MB, as their size is unknown: x:1" in caplog.text
        await world.keeper.aclose()

    run(scene())


def test_model_with_calls_is_awaited_if_nothing_else_makes_room(run: Run) -> None:
    """A program that alternates two models, with room for one, is slow but does not fail."""

    async def scene() -> None:
        world = World(max_loaded=1)
        calls = [world.call(item, 2) for item in (A, B, C, A, B, C)]
        await asyncio.gather(*calls)
        assert world.engine.requests.count("load a") == 1, "both callers of a model share one load"
        assert world.now() == 6

    run(scene())


def test_model_found_to_be_in_use_is_skipped(run: Run) -> None:
    async def scene() -> None:
        others = Shared()
        world = World(others=others, max_loaded=2)
        await world.call(A, 1)
        await world.call(B, 1)
        others.holders["a:1"] = THEM  # after the selection
        await world.call(C, 1)
        assert world.engine.inside == {"a:1", "c:1"}
        await world.keeper.aclose()

    run(scene())


def test_model_larger_than_the_budget_unloads_nothing(run: Run) -> None:
    async def scene() -> None:
        world = World(memory_budget_mb=700)
        await world.call(A, 1)
        with pytest.raises(errors.MemoryBudgetExceeded, match="2000 MB"):
            await world.call(model("huge"), 1)
        assert world.engine.inside == {"a:1"}

    run(scene())


def test_measured_memory_counts_instead_of_file_sizes(run: Run) -> None:
    """The files have 400 and 300 MB, and the models use twice that in memory."""

    async def scene() -> None:
        engine = Engine(measured={"a:1": 800.0, "b:1": 600.0})
        world = World(engine, memory_budget_mb=1000)
        await world.call(A, 1)
        await world.call(B, 1)
        assert engine.requests == ["load a", "unload a", "load b"]
        assert world.reasons() == [("a:1", "budget")]
        await world.keeper.aclose()

    run(scene())


def test_model_that_needs_more_memory_than_its_files_is_unloaded(run: Run) -> None:
    async def scene() -> None:
        engine = Engine(measured={"a:1": 1139.0, "c:1": 200.0})
        world = World(engine, memory_budget_mb=500)
        await world.call(C, 1)
        with pytest.raises(errors.MemoryBudgetExceeded, match="a:1, which takes 1139 MB") as caught:
            await world.call(A, 1)
        assert "the budget is 500 MB" in caught.value.message
        assert engine.inside == set()
        request_count = len(engine.requests)
        with pytest.raises(errors.MemoryBudgetExceeded, match="1139 MB by itself"):
            await world.call(A, 1)
        assert len(engine.requests) == request_count, (
            "its size is known now: it is not loaded again"
        )
        await world.keeper.aclose()

    run(scene())


def test_idle_models_are_unloaded_for_memory_left_by_calls(run: Run) -> None:
    async def scene() -> None:
        engine = Engine(measured={"b:1": 300.0, "c:1": 200.0})
        world = World(engine, memory_budget_mb=600)
        await world.call(B, 1)
        await world.call(C, 1)
        engine.kept_mb = 150.0  # a long prompt was read
        await world.call(C, 1)
        await asyncio.sleep(5)
        assert engine.inside == {"c:1"}, "the least recently used model is unloaded"
        engine.kept_mb = 500.0
        await world.call(C, 1)
        await asyncio.sleep(5)
        assert engine.inside == set()
        await world.keeper.aclose()

    run(scene())


def test_model_in_use_stays_although_it_exceeds_the_budget(
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


def test_memory_kept_by_the_engine_is_available_to_the_next_model(run: Run) -> None:
    async def scene() -> None:
        engine = Engine(measured={"a:1": 400.0}, kept_mb=150.0)
        world = World(engine, memory_budget_mb=600)
        await world.call(A, 1)
        assert engine.inside == {"a:1"}
        await world.keeper.aclose()

    run(scene())


def test_models_loaded_concurrently_respect_the_budget(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(duration_s=1.0), max_loaded=2)
        await asyncio.gather(*(world.memory.load(item) for item in (A, B, C)))
        assert len(world.engine.inside) == 2

    run(scene())


def test_failed_load_does_not_count_as_loaded(run: Run) -> None:
    async def scene() -> None:
        world = World(Engine(broken={"a"}), Shared())
        with pytest.raises(errors.ModelLoadFailed):
            await world.memory.load(A)
        assert not world.memory.is_loaded("a:1")
        assert world.events == []
        await world.keeper.aclose()

    run(scene())
