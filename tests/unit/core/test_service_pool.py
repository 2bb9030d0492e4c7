"""Which service a call goes to, and what becomes of one that went away."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from foundry_api.core.connection import Connection
from foundry_api.core.service_pool import ServiceHandle, ServicePool
from foundry_api.engine.endpoint import Endpoint
from foundry_api.resilience.breaker import BreakerSettings, CircuitBreaker
from foundry_api.resilience.limiter import Limiter
from foundry_api.types import errors
from foundry_api.types.models import Model
from foundry_api.wire.dialects.base import ServiceStatus

if TYPE_CHECKING:
    from foundry_api.engine.endpoint import Origin
    from foundry_api.wire.transport import Transport

MODEL = Model(id="tiny:1", alias="tiny", catalog="local", cached=True)
QUICK = BreakerSettings(window_calls=1, minimum_calls=1, open_s=8.0)


@dataclass
class World:
    """A service whose address, death and clock are in the test's hands."""

    url: str = "http://a"
    origin: Origin = "explicit"
    now: float = 0.0
    alive: bool = True
    opened: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    forgotten: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    deaths_while_loading: int = 0

    def __post_init__(self) -> None:
        self.gate.set()
        breaker = CircuitBreaker(QUICK, monotonic=lambda: self.now, uniform=lambda _, high: high)
        self.service = ServiceHandle(self.url, self.open, self.forget, breaker, Limiter())

    async def open(self) -> Connection:
        await self.gate.wait()
        if not self.alive:
            raise errors.ServiceNotRunning("nobody is there")
        self.opened.append(self.url)
        endpoint = Endpoint(base_url=self.url, service_generation="sdk-2.1", origin=self.origin)
        connection = Connection(endpoint, cast("Transport", None), {}, None)
        connection.dialect.list_local_models = self.models  # type: ignore[method-assign]
        connection.dialect.load = self.load  # type: ignore[method-assign]
        connection.dialect.get_status = self.status  # type: ignore[method-assign]
        return connection

    def forget(self) -> None:
        self.forgotten += 1

    async def models(self) -> list[Model]:
        return [MODEL]

    async def load(self, model: Model) -> None:
        self.loads.append(model.id)
        if self.deaths_while_loading:
            self.deaths_while_loading -= 1
            raise errors.ServiceCrashed("it died again")
        self.loaded.set()

    async def status(self) -> ServiceStatus:
        if not self.alive:
            raise errors.ServiceCrashed("it is gone")
        return ServiceStatus("sdk-2.1")

    def fail(self) -> None:
        """One failed call, which opens the breaker for 8 s."""
        permit = self.service.breaker.try_enter()
        assert permit is not None
        permit.failed(0.1)


def services(*worlds: World) -> ServicePool:
    return ServicePool([world.service for world in worlds], lambda: World("http://own").service)


def busy(world: World, calls: int) -> World:
    for _ in range(calls):
        assert world.service.limiter.try_acquire()
    return world


def test_the_call_goes_to_the_service_with_the_least_in_flight() -> None:
    a, b = busy(World("http://a"), 2), busy(World("http://b"), 1)
    assert services(a, b).pick() is b.service


def test_a_service_whose_breaker_is_open_comes_last() -> None:
    a, b = World("http://a"), busy(World("http://b"), 2)
    a.fail()
    assert services(a, b).pick() is b.service


def test_a_service_that_waits_for_its_trial_comes_first() -> None:
    """Else nobody would ever find it back while the other one serves."""
    a, b = World("http://a"), World("http://b")
    b.fail()
    b.now = 9.0
    assert services(a, b).pick() is b.service


def test_a_service_that_failed_this_call_comes_behind_all_others() -> None:
    a, b = World("http://a"), World("http://b")
    b.fail()
    both = services(a, b)
    assert both.pick({a.service}) is b.service
    assert both.has_untried({a.service})
    assert not both.has_untried({a.service, b.service})
    assert both.pick({a.service, b.service}) is a.service


@pytest.mark.parametrize(
    ("origin", "name", "own"),
    [
        ("port", "demo", True),
        ("cli", "Demo", True),
        ("explicit", "demo", False),
        ("port", "tiny", False),
    ],
)
async def test_the_demo_model_of_a_found_service_is_our_own_hosts(
    origin: Origin, name: str, *, own: bool
) -> None:
    found = World(origin=origin)
    both = services(found)
    service = await both.select_for_model(name)
    assert (service is not found.service) is own
    assert await both.select_for_model(name) is service
    assert len(list(both)) == 1 + own


async def test_of_several_services_none_has_to_be_there_to_be_picked() -> None:
    """What is raised here is not held against the service: the call would come back to it."""
    away, b = World("http://a", alive=False), busy(World("http://b"), 1)
    both = services(away, b)
    assert await both.select_for_model("demo") is away.service
    assert await both.select_for_model("demo", {away.service}) is b.service


async def test_callers_that_come_together_connect_once() -> None:
    world = World()
    world.gate.clear()
    callers = [asyncio.create_task(world.service.connect()) for _ in range(5)]
    await asyncio.sleep(0)
    world.gate.set()
    assert len(set(await asyncio.gather(*callers))) == 1
    assert world.opened == ["http://a"]


async def test_a_loss_is_noticed_once_and_only_of_the_present_connection() -> None:
    world = World()
    first = await world.service.connect()
    world.service.invalidate(first)
    world.service.invalidate(first)
    second = await world.service.connect()
    world.service.invalidate(first)
    assert world.service.connection is second
    assert world.forgotten == 1


async def test_what_was_in_memory_is_loaded_again_before_the_next_caller_comes() -> None:
    world = World()
    connection = await world.service.connect()
    await connection.make_ready("tiny")
    world.loaded.clear()
    world.service.invalidate(connection)
    await world.loaded.wait()
    assert world.loads == ["tiny:1", "tiny:1"]
    assert world.opened == ["http://a", "http://a"]
    await world.service.aclose()


async def test_a_service_that_dies_again_meanwhile_is_found_again() -> None:
    world = World()
    connection = await world.service.connect()
    await connection.make_ready("tiny")
    world.loaded.clear()
    world.deaths_while_loading = 2
    world.service.invalidate(connection)
    await world.loaded.wait()
    assert len(world.opened) == 4
    await world.service.aclose()


async def test_a_model_that_kills_its_service_is_not_loaded_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    connection = await world.service.connect()
    await connection.make_ready("tiny")
    world.deaths_while_loading = 99
    world.service.invalidate(connection)
    await others()
    assert len(world.loads) == 4
    assert "it died again" in caplog.text


async def test_a_service_that_had_nothing_in_memory_is_not_looked_for_unasked() -> None:
    world = World()
    world.service.invalidate(await world.service.connect())
    await asyncio.sleep(0)
    assert world.opened == ["http://a"]


async def test_a_service_that_cannot_be_found_again_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    connection = await world.service.connect()
    await connection.make_ready("tiny")
    world.alive = False
    world.service.invalidate(connection)
    await others()
    assert "could not be loaded again" in caplog.text
    assert "nobody is there" in caplog.text


async def test_closing_ends_the_search_for_a_lost_service() -> None:
    world = World()
    connection = await world.service.connect()
    await connection.make_ready("tiny")
    world.gate.clear()
    world.service.invalidate(connection)
    await asyncio.sleep(0)
    await world.service.aclose()
    assert world.loads == ["tiny:1"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_nothing_is_held_against_an_engine_that_took_the_place_of_another() -> None:
    world = World()
    connection = await world.service.connect()
    world.fail()
    assert world.service.breaker.state == "open"
    world.service.invalidate(connection)
    world.url = "http://b"
    await world.service.connect()
    assert (world.service.name, world.service.breaker.state) == ("http://b", "closed")


async def test_the_same_service_found_again_has_to_pass_its_trial() -> None:
    world = World()
    connection = await world.service.connect()
    world.fail()
    world.service.invalidate(connection)
    await world.service.connect()
    assert world.service.breaker.state == "open"


async def test_a_probe_asks_the_service_that_is_known() -> None:
    world = World()
    await world.service.connect()
    await world.service.probe()
    assert world.opened == ["http://a"]


async def test_a_probe_of_a_service_that_is_gone_looks_for_it_anew() -> None:
    world = World()
    await world.service.connect()
    world.alive = False
    with pytest.raises(errors.ServiceNotRunning):
        await world.service.probe()
    assert world.forgotten == 1


async def others() -> None:
    """Wait for what goes on in the background."""
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
