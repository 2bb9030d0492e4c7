"""Selection of the service for a call, and recovery of a lost service."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from foundry_api import FoundryAPIClient
from foundry_api.core.connection import Connection
from foundry_api.core.model_offer import ModelOffer
from foundry_api.core.service_pool import ServiceHandle, ServicePool
from foundry_api.engine.endpoint import Endpoint
from foundry_api.resilience.breaker import BreakerSettings, CircuitBreaker
from foundry_api.resilience.limiter import Limiter, Moved
from foundry_api.resilience.prompt_reading import PromptSize
from foundry_api.types import errors
from foundry_api.types.models import Model
from foundry_api.types.services import ServiceOptions
from foundry_api.types.settings import Settings
from foundry_api.wire.dialects.base import ServiceStatus

if TYPE_CHECKING:
    from foundry_api.engine.endpoint import Origin
    from foundry_api.wire.transport import Transport

MODEL = Model(id="tiny:1", alias="tiny", catalog="local", cached=True)
QUICK = BreakerSettings(window_calls=1, minimum_calls=1, open_s=8.0)


@dataclass
class World:
    """A service with an injected address, clock and crash."""

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
        """Make a call fail, which opens the breaker for 8 s."""
        permit = self.service.breaker.try_enter()
        assert permit is not None
        permit.record_failure(0.1)


def services(*worlds: World) -> ServicePool:
    return ServicePool([world.service for world in worlds], lambda: World("http://own").service)


def busy(world: World, calls: int) -> World:
    for _ in range(calls):
        assert world.service.limiter.try_acquire()
    return world


def test_service_with_the_fewest_calls_is_selected() -> None:
    a, b = busy(World("http://a"), 2), busy(World("http://b"), 1)
    assert services(a, b).pick() is b.service


def test_service_with_an_open_breaker_comes_last() -> None:
    a, b = World("http://a"), busy(World("http://b"), 2)
    a.fail()
    assert services(a, b).pick() is b.service


def test_service_that_waits_for_a_probe_comes_first() -> None:
    """Otherwise it would never be used again while the other one works."""
    a, b = World("http://a"), World("http://b")
    b.fail()
    b.now = 9.0
    assert services(a, b).pick() is b.service


def test_service_that_failed_this_call_comes_last() -> None:
    a, b = World("http://a"), World("http://b")
    b.fail()
    both = services(a, b)
    assert both.pick({a.service}) is b.service
    assert both.has_untried({a.service})
    assert not both.has_untried({a.service, b.service})
    assert both.pick({a.service, b.service}) is a.service


async def test_an_engine_at_a_new_address_is_measured_anew() -> None:
    world = World()
    connection = await world.service.connect()
    world.service.readings.for_model("tiny:1").record(PromptSize.of(["word " * 100]), 100, 1.0)
    world.service.invalidate(connection)
    await world.service.connect()
    assert not world.service.readings.for_model("tiny:1").is_empty
    world.url = "http://b"
    assert world.service.connection is not None
    world.service.invalidate(world.service.connection)
    await world.service.connect()
    assert world.service.readings.for_model("tiny:1").is_empty


@pytest.mark.parametrize(
    ("origin", "name", "own"),
    [
        ("port", "demo", True),
        ("cli", "Demo", True),
        ("explicit", "demo", False),
        ("port", "tiny", False),
    ],
)
async def test_demo_model_of_a_found_service_is_served_by_our_own_host(
    origin: Origin, name: str, *, own: bool
) -> None:
    found = World(origin=origin)
    both = services(found)
    service = await both.select_for_model(name)
    assert (service is not found.service) is own
    assert await both.select_for_model(name) is service
    assert len(list(both)) == 1 + own


async def test_several_services_need_not_be_running_to_be_selected() -> None:
    """An error of the selection does not count as tried: the call would select it again."""
    away, b = World("http://a", alive=False), busy(World("http://b"), 1)
    both = services(away, b)
    assert await both.select_for_model("demo") is away.service
    assert await both.select_for_model("demo", {away.service}) is b.service


async def test_concurrent_callers_connect_once() -> None:
    world = World()
    world.gate.clear()
    callers = [asyncio.create_task(world.service.connect()) for _ in range(5)]
    await asyncio.sleep(0)
    world.gate.set()
    assert len(set(await asyncio.gather(*callers))) == 1
    assert world.opened == ["http://a"]


async def test_loss_is_noticed_once_and_only_for_the_current_connection() -> None:
    world = World()
    first = await world.service.connect()
    world.service.invalidate(first)
    world.service.invalidate(first)
    second = await world.service.connect()
    world.service.invalidate(first)
    assert world.service.connection is second
    assert world.forgotten == 1


async def test_models_are_loaded_again_before_the_next_call() -> None:
    world = World()
    connection = await world.service.connect()
    await connection.make_ready("tiny")
    world.loaded.clear()
    world.service.invalidate(connection)
    await world.loaded.wait()
    assert world.loads == ["tiny:1", "tiny:1"]
    assert world.opened == ["http://a", "http://a"]
    await world.service.aclose()


async def test_service_that_crashes_again_during_recovery_is_found_again() -> None:
    world = World()
    connection = await world.service.connect()
    await connection.make_ready("tiny")
    world.loaded.clear()
    world.deaths_while_loading = 2
    world.service.invalidate(connection)
    await world.loaded.wait()
    assert len(world.opened) == 4
    await world.service.aclose()


async def test_model_that_crashes_its_service_is_not_loaded_forever(
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


async def test_service_without_loaded_models_is_not_recovered() -> None:
    world = World()
    world.service.invalidate(await world.service.connect())
    await asyncio.sleep(0)
    assert world.opened == ["http://a"]


async def test_service_that_is_not_found_again_is_logged(
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


async def test_closing_ends_the_recovery() -> None:
    world = World()
    connection = await world.service.connect()
    await connection.make_ready("tiny")
    world.gate.clear()
    world.service.invalidate(connection)
    await asyncio.sleep(0)
    await world.service.aclose()
    assert world.loads == ["tiny:1"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_new_engine_starts_with_a_closed_breaker() -> None:
    world = World()
    connection = await world.service.connect()
    world.fail()
    assert world.service.breaker.state == "open"
    world.service.invalidate(connection)
    world.url = "http://b"
    await world.service.connect()
    assert (world.service.name, world.service.breaker.state) == ("http://b", "closed")


async def test_same_service_must_pass_the_probe() -> None:
    world = World()
    connection = await world.service.connect()
    world.fail()
    world.service.invalidate(connection)
    await world.service.connect()
    assert world.service.breaker.state == "open"


async def test_probe_requests_the_status_of_a_known_service() -> None:
    world = World()
    await world.service.connect()
    await world.service.probe()
    assert world.opened == ["http://a"]


async def test_probe_of_a_lost_service_finds_it_again() -> None:
    world = World()
    await world.service.connect()
    world.alive = False
    with pytest.raises(errors.ServiceNotRunning):
        await world.service.probe()
    assert world.forgotten == 1


async def others() -> None:
    """Wait for the background tasks."""
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})


class Waiting:
    """A call that waits for its first token."""

    name = "tiny"

    def __init__(self) -> None:
        self.was_given_up = False

    def give_up(self) -> None:
        self.was_given_up = True


async def test_services_join_and_leave() -> None:
    pool = services()
    with pytest.raises(errors.ServiceNotRunning, match="no service at present"):
        await pool.select_for_model("tiny")
    with pytest.raises(errors.ServiceNotRunning):
        _ = pool.primary
    a, b = World("http://a"), World("http://b")
    waiting = Waiting()
    for world in (a, b):
        world.service.offer = ModelOffer(ServiceOptions(name=world.url))
        world.service.offer.update([MODEL])
        pool.add(world.service)
    busy(a, a.service.limiter.limit)
    queued = asyncio.ensure_future(a.service.limiter.acquire(movable="tiny"))
    a.service.attempts.add(waiting)
    await asyncio.sleep(0)
    pool.remove(a.service)
    with pytest.raises(Moved):
        await queued
    assert waiting.was_given_up
    assert await pool.select_for_model("tiny") is b.service
    pool.remove(b.service)
    assert not pool.handles
    with pytest.raises(errors.ServiceNotRunning):
        await pool.select_for_model("tiny")


async def test_only_services_that_differ_in_their_models_are_added() -> None:
    async with FoundryAPIClient("http://127.0.0.1:1") as client:
        with pytest.raises(errors.ConfigurationError, match="whose settings have `services`"):
            await client.add_service(ServiceOptions(name="x", base_url="http://127.0.0.1:2"))
    async with FoundryAPIClient(settings=Settings(services=())) as client:
        service = await client.add_service(ServiceOptions(name="x", base_url="http://127.0.0.1:2"))
        await client.remove_service(service)
        with pytest.raises(errors.ConfigurationError, match="no service that was added"):
            await client.remove_service(service)
