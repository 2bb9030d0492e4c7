"""Which models a service is called for, and the choice among services that differ in them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest

from foundry_api.core.call import FailurePolicy
from foundry_api.core.connection import Connection
from foundry_api.core.model_offer import ModelOffer
from foundry_api.core.service_pool import ServiceHandle, ServicePool
from foundry_api.engine.endpoint import Endpoint
from foundry_api.resilience.backoff import Backoff
from foundry_api.resilience.breaker import CircuitBreaker
from foundry_api.resilience.limiter import Limiter, Moved
from foundry_api.resilience.retry import Retry, RetryBudget
from foundry_api.types import errors
from foundry_api.types.models import Model
from foundry_api.types.services import ServiceOptions

if TYPE_CHECKING:
    from foundry_api.core.service_pool import RunningAttempt
    from foundry_api.wire.transport import Transport


def make_model(name: str, alias: str, *, cached: bool | None = True) -> Model:
    return Model(id=name, alias=alias, catalog="local", cached=cached)


PHI = make_model("Phi-4-cpu:4", "phi-4")
TINY = make_model("tiny:1", "tiny")


class World:
    """A service with models, which may be down."""

    def __init__(self, name: str, *models: Model, **options: object) -> None:
        self.models = list(models)
        self.is_alive = True
        self.listings = 0
        self.offer = ModelOffer(ServiceOptions(name=name, **options))  # type: ignore[arg-type]
        self.service = ServiceHandle(
            f"http://{name}", self.open, lambda: None, CircuitBreaker(), Limiter(), offer=self.offer
        )

    async def open(self) -> Connection:
        if not self.is_alive:
            raise errors.ServiceNotRunning("nobody is there")
        url = self.service.name
        endpoint = Endpoint(base_url=url, service_generation="openai", origin="explicit")
        connection = Connection(endpoint, cast("Transport", None), {}, None)
        connection.dialect.list_local_models = self.list  # type: ignore[method-assign]
        return connection

    async def list(self) -> list[Model]:
        self.listings += 1
        if not self.is_alive:
            raise errors.ServiceCrashed("it is gone")
        return self.models


def make_pool(*worlds: World) -> ServicePool:
    return ServicePool([world.service for world in worlds], lambda: worlds[0].service)


async def select(pool: ServicePool, name: str) -> str:
    service = pool.select(name, frozenset()) or await pool.select_for_model(name)
    return service.name.removeprefix("http://")


def make_offer(**options: object) -> ModelOffer:
    return ModelOffer(ServiceOptions(name="a", **options))  # type: ignore[arg-type]


def test_before_a_listing_only_named_models_are_known() -> None:
    offer = make_offer(models=("Phi-4",), aliases={"Fast": "phi-4"})
    assert [offer.has(name) for name in ("phi-4", "PHI-4:7", "fast", "tiny")] == [
        True,
        True,
        True,
        None,
    ]


def test_a_listing_says_what_there_is() -> None:
    offer = make_offer(aliases={"fast": "Phi-4-cpu"})
    offer.update([PHI, TINY, make_model("big:1", "big", cached=False)])
    assert all(map(offer.has, ("phi-4", "phi-4-cpu", "Phi-4-CPU:4", "tiny:1", "tiny", "fast")))
    assert offer.has("big") is offer.has("other") is False
    assert [model.id for model in offer.models] == ["Phi-4-cpu:4", "tiny:1", "fast"]
    offer.update([TINY])
    assert offer.has("phi-4") is False
    assert [model.id for model in offer.models] == ["tiny:1"]


@pytest.mark.parametrize("name", ["phi-4", "PHI-4-cpu", "Phi-4-cpu:4"])
def test_chosen_models_exclude_others(name: str) -> None:
    offer = make_offer(models=(name,))
    offer.update([PHI, TINY])
    assert offer.has("phi-4")
    assert offer.has("Phi-4-cpu:4")
    assert offer.has("tiny") is False
    assert offer.models == (PHI,)


async def test_a_call_goes_to_a_service_that_has_its_model() -> None:
    pool = make_pool(World("a", TINY), World("b", PHI), World("c", PHI, TINY))
    assert pool.select("phi-4", frozenset()) is None  # nothing is known yet
    await pool.check()
    assert await select(pool, "phi-4") == "b"
    assert await select(pool, "TINY:1") == "a"
    a, b, c = pool
    tried = {b}
    assert pool.has_untried(tried, "phi-4")
    assert pool.select("phi-4", tried) is c
    assert not pool.has_untried({b, c}, "phi-4")
    assert pool.has_untried({b, c}, "tiny")
    assert a.is_healthy
    assert pool.select("", frozenset()) is a  # a request without a model


async def test_weights_divide_the_calls() -> None:
    heavy, light = World("heavy", TINY, weight=2.0), World("light", TINY, concurrency=8)
    pool = make_pool(heavy, light)
    await pool.check()
    names: list[str] = []
    for _ in range(6):
        service = await pool.select_for_model("tiny")
        service.attempts.add(Attempt("tiny"))
        names.append(service.name)
    assert names.count("http://heavy") == 4


async def test_services_are_asked_again_for_an_unknown_model() -> None:
    world = World("a", TINY)
    pool = make_pool(world)
    for _ in range(3):
        with pytest.raises(errors.ModelNotFound) as caught:
            await select(pool, "tinny")
    assert world.listings == 1  # not for every call
    assert "tiny" in caught.value.nearest
    world.models.append(PHI)
    world.service._checked_at = float("-inf")
    assert await select(pool, "phi-4") == "a"


async def test_a_service_that_is_down_keeps_its_models() -> None:
    """A call for one of them fails as the service is not there, not as the model is unknown."""
    a, b = World("a", PHI), World("b", TINY)
    pool = make_pool(a, b)
    await pool.check()
    a.is_alive = False
    await pool.check()
    assert a.service.problem == "it is gone"
    assert await select(pool, "phi-4") == "a"
    b.models.append(PHI)
    await pool.check()
    assert await select(pool, "phi-4") == "b"
    a.is_alive = True
    await pool.check()
    assert await select(pool, "phi-4") == "a"


async def test_a_service_that_never_listed_may_have_a_model() -> None:
    a, b = World("a", TINY), World("b", PHI)
    b.is_alive = False
    pool = make_pool(a, b)
    assert await select(pool, "phi-4") == "b"
    assert await select(pool, "tiny") == "a"


async def test_one_check_serves_all_who_want_one() -> None:
    world = World("a", TINY)
    await asyncio.gather(*(world.service.check() for _ in range(5)))
    assert world.listings == 1


async def test_a_waiting_call_moves_only_to_where_its_model_is() -> None:
    busy, phi, tiny = (
        World("busy", TINY, PHI, concurrency=1),
        World("phi", PHI),
        World("tiny", TINY),
    )
    pool = make_pool(busy, phi, tiny)
    await pool.check()
    limiter = busy.service.limiter
    slots = [limiter.try_acquire() for _ in range(limiter.limit)]
    waiting = asyncio.ensure_future(limiter.acquire(movable="tiny"))
    await asyncio.sleep(0)
    for world, moves in ((phi, False), (tiny, True)):
        free = world.service.limiter.try_acquire()
        assert free is not None
        free.release()
        assert (limiter.queued == 0) is moves
    with pytest.raises(Moved):
        await waiting
    assert all(slots)


@dataclass(eq=False)
class Attempt:
    """A call that is assigned to a service."""

    name: str
    gave_up: int = 0

    def give_up(self) -> None:
        self.gave_up += 1


async def test_calls_leave_a_service_that_fails_its_checks() -> None:
    gone, other = World("gone", TINY, PHI), World("other", TINY)
    pool = make_pool(gone, other)
    await pool.check()
    limiter = gone.service.limiter
    while limiter.try_acquire():
        pass
    waiting = {
        model: asyncio.ensure_future(limiter.acquire(movable=model)) for model in ("phi-4", "tiny")
    }
    attempts = {name: Attempt(name) for name in ("phi-4", "tiny")}
    gone.service.attempts.update(attempts.values())
    await asyncio.sleep(0)
    gone.is_alive = False
    await pool.check()
    with pytest.raises(Moved):
        await waiting["tiny"]
    assert attempts["tiny"].gave_up == 0  # one check may fail under load
    await pool.check()
    assert (attempts["tiny"].gave_up, attempts["phi-4"].gave_up) == (1, 0)
    assert not waiting["phi-4"].done()
    waiting["phi-4"].cancel()
    other.service.problem = "it is gone too"
    await gone.service.check()
    assert attempts["tiny"].gave_up == 1


def make_policy(pool: ServicePool, *models: str, budget: float = 100.0) -> FailurePolicy:
    retry = Retry(0, Backoff(0.1, 5.0), RetryBudget(budget, 0.0))
    return FailurePolicy(retry, pool, models)


async def test_another_model_may_be_at_a_service_that_is_there() -> None:
    pool = make_pool(World("a", PHI), World("b", TINY))
    await pool.check()
    policy = make_policy(pool, "phi-4", "tiny")
    lost = errors.ServiceNotRunning("x")
    assert policy.get_next_delay_s(lost, pool.primary, 10.0) == 0.0
    assert policy.model == "tiny"


@pytest.mark.parametrize(
    "error",
    [
        errors.ServiceCrashed("x"),
        errors.StreamInterrupted("x"),
        errors.CircuitOpen("x", retry_after_s=1.0),
    ],
)
async def test_moving_away_from_a_lost_service_needs_no_budget(error: errors.FoundryError) -> None:
    pool = make_pool(World("a", PHI), World("b", PHI))
    await pool.check()
    policy = make_policy(pool, "phi-4", budget=0.0)
    assert policy.get_next_delay_s(error, pool.primary, 10.0) == 0.0
    policy = make_policy(pool, "phi-4", budget=0.0)
    overload = errors.ServiceOverloaded("x")
    assert policy.get_next_delay_s(overload, pool.primary, 10.0) is None


def make_many(count: int, **options: object) -> list[World]:
    worlds = [World(f"{number}", **options) for number in range(count)]
    for world in worlds:
        world.offer.update([PHI])
    return worlds


def pick_calls(pool: ServicePool, count: int) -> None:
    """Pick a service for each of some calls, which do not end."""
    for _ in range(count):
        service = pool.pick(name="phi-4")
        assert service is not None
        service.attempts.add(cast("RunningAttempt", object()))


def test_a_call_looks_at_few_of_many_services(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make_pool(*make_many(1000))
    asked: list[ModelOffer] = []
    has = ModelOffer.has

    def count_and_ask(offer: ModelOffer, name: str) -> bool | None:
        asked.append(offer)
        return has(offer, name)

    monkeypatch.setattr(ModelOffer, "has", count_and_ask)
    pick_calls(pool, 1)
    assert len(asked) < 20


def test_many_services_share_the_calls() -> None:
    worlds = make_many(100)
    pick_calls(make_pool(*worlds), 300)
    calls = [len(world.service.attempts) for world in worlds]
    assert sum(calls) == 300
    assert max(calls) - min(calls) <= 2


def test_many_services_share_the_calls_by_weight() -> None:
    light, heavy = make_many(40), make_many(40, weight=3.0)
    pick_calls(make_pool(*light, *heavy), 160)
    assert [len(world.service.attempts) for world in light + heavy] == [1] * 40 + [3] * 40


@pytest.mark.parametrize("problem", ["", "does not respond"])
def test_the_only_one_of_many_services_that_has_room_is_found(problem: str) -> None:
    worlds = make_many(100)
    pool = make_pool(*worlds)
    for world in worlds[:70] + worlds[71:]:
        world.service.problem = problem
        if not problem:
            limit = world.service.limiter.limit
            world.service.attempts = {cast("RunningAttempt", object()) for _ in range(limit)}
    pick_calls(pool, 1)
    assert len(worlds[70].service.attempts) == 1


def test_the_only_one_of_many_services_that_has_a_model_is_found() -> None:
    worlds = make_many(100)
    worlds[70].offer.update([PHI, TINY])
    assert make_pool(*worlds).pick(name="tiny") is worlds[70].service


def test_a_tried_one_of_many_services_comes_last() -> None:
    worlds = make_many(100)
    services = [world.service for world in worlds]
    pool = make_pool(*worlds)
    assert pool.pick(frozenset(services[:-1]), "phi-4") is services[-1]
    assert pool.pick(frozenset(services), "phi-4") is not None
