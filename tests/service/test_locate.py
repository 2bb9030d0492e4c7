"""Finding the service of a client, also after it has stopped."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api.engine import discovery, shared
from foundry_api.engine.locator import ServiceLocator
from foundry_api.engine.supervisor import Supervisor
from foundry_api.types.errors import ServiceCrashed, ServiceNotRunning
from foundry_api.types.settings import Settings
from foundry_api.wire.dialects.detect import detect_service
from foundry_api.wire.transport import Request, fetch
from service.fakes import free_port, install_fake_foundry, make_service_routes, run_fake_server
from service.helpers import DEADLINE_S, cancel_after, list_hosts, wait_until_async
from support.fakes.fake_cli010 import FakeCli010Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from foundry_api.engine.process import HostOptions
    from foundry_api.storage.paths import Paths
    from foundry_api.wire.http import HttpTransport


@pytest.fixture(autouse=True)
def nothing_at_known_ports(bare_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundry_api.engine.discovery.KNOWN_PORTS", ())


@pytest.fixture
def locate(
    paths: Paths, options: HostOptions, transport: HttpTransport
) -> Iterator[Callable[..., ServiceLocator]]:
    locators: list[ServiceLocator] = []

    def locate(**settings: object) -> ServiceLocator:
        locator = ServiceLocator(
            Settings(**settings),  # type: ignore[arg-type]
            paths,
            lambda: transport,
            supervisor=Supervisor(options),
        )
        locators.append(locator)
        return locator

    yield locate
    for locator in locators:
        locator.close()
    shared.stop(paths)


async def test_without_a_service_one_host_is_started_for_all_callers(
    locate: Callable[..., ServiceLocator], home: Path
) -> None:
    locator = locate()
    found = await asyncio.gather(*(locator.get_endpoint() for _ in range(5)))
    assert {endpoint.origin for endpoint in found} == {"embedded"}
    assert len(list_hosts(home)) == 1
    assert await locator.get_endpoint() == await locator.get_embedded() == found[0]
    await locator.aclose()
    assert not list_hosts(home)


async def test_an_embedded_locator_does_not_search(
    locate: Callable[..., ServiceLocator], bare_path: Path
) -> None:
    async with FakeCli010Service() as fake:
        url = fake.base_url
        install_fake_foundry(bare_path, server=f"""print('{{"webUrls":["{url}"]}}')""")
        assert (await locate(service="embedded").get_endpoint()).origin == "embedded"
        locator = locate()
        assert (await locator.get_endpoint()).base_url == url
        assert (await locator.get_embedded()).origin == "embedded"


async def test_the_shared_host_is_used_as_the_embedded_one(
    locate: Callable[..., ServiceLocator], paths: Paths, options: HostOptions, home: Path
) -> None:
    endpoint, _ = await asyncio.to_thread(shared.start, paths, options=options)
    locator = locate()
    assert await locator.get_endpoint() == await locator.get_embedded() == endpoint
    assert len(list_hosts(home)) == 1


async def test_an_explicit_address_is_never_replaced(
    locate: Callable[..., ServiceLocator], home: Path
) -> None:
    locator = locate(base_url=f"http://127.0.0.1:{free_port()}", service="embedded")
    with pytest.raises(ServiceNotRunning):
        await locator.get_endpoint()
    assert not list_hosts(home)


async def test_the_service_is_cached_until_it_is_invalidated(
    locate: Callable[..., ServiceLocator], bare_path: Path
) -> None:
    locator = locate()
    async with FakeCli010Service() as fake:
        url = fake.base_url
        install_fake_foundry(bare_path, server=f"""print('{{"webUrls":["{url}"]}}')""")
        found = await locator.get_endpoint()
    assert await locator.get_endpoint() == found
    locator.invalidate()
    assert (await locator.get_endpoint()).origin == "embedded"


async def test_a_dead_own_host_is_restarted(
    locate: Callable[..., ServiceLocator],
) -> None:
    locator = locate()
    before = await locator.get_endpoint()
    psutil.Process(before.pid).kill()
    host = locator.supervisor.host
    assert host
    await wait_until_async(lambda: not host.is_alive)
    after = await locator.get_endpoint()
    assert after.pid != before.pid
    assert locator.supervisor.restarts == 1


async def test_a_stopped_shared_host_is_replaced_by_an_own_one(
    locate: Callable[..., ServiceLocator], paths: Paths, options: HostOptions
) -> None:
    await asyncio.to_thread(shared.start, paths, options=options)
    locator = locate()
    assert (await locator.get_endpoint()).origin == "shared"
    await asyncio.to_thread(shared.stop, paths)
    locator.invalidate()
    assert (await locator.get_endpoint()).origin == "embedded"


async def test_cancelling_the_search_leaves_no_unknown_host(
    locate: Callable[..., ServiceLocator], home: Path
) -> None:
    """A host that served already when the search was cancelled is kept for the next one."""
    locator = locate()
    for after_s in (0.0, 0.05, 0.1, 0.2):
        await cancel_after(after_s, locator.get_endpoint())
        own_host = locator.supervisor.host
        assert [host.pid for host in list_hosts(home)] == ([own_host.pid] if own_host else [])
        await locator.aclose()
        assert not list_hosts(home)


async def test_a_cancelled_search_keeps_a_host_that_serves(
    locate: Callable[..., ServiceLocator], monkeypatch: pytest.MonkeyPatch
) -> None:
    locator = locate(service="embedded")
    probed = asyncio.Event()

    async def accepts(_: str) -> bool:
        probed.set()
        await asyncio.Event().wait()
        return True

    with monkeypatch.context() as patch:
        patch.setattr(discovery, "is_open", accepts)
        search = asyncio.ensure_future(locator.get_endpoint())
        await probed.wait()
        search.cancel()
        await asyncio.wait((search,))
    own_host = locator.supervisor.host
    assert own_host
    assert (await locator.get_endpoint()).pid == own_host.pid


def test_a_locator_works_on_one_event_loop_after_another(
    locate: Callable[..., ServiceLocator],
) -> None:
    locator = locate(service="embedded")
    assert asyncio.run(locator.get_endpoint()) == asyncio.run(locator.get_endpoint())


async def test_an_own_host_is_replaced_when_its_engine_was_shut_down(
    locate: Callable[..., ServiceLocator], transport: HttpTransport
) -> None:
    locator = locate()
    before = await locator.get_endpoint()
    with pytest.raises(ServiceCrashed):
        await fetch(transport, Request("POST", f"{before.base_url}/shutdown"), timeout_s=10)
    after = before
    async with asyncio.timeout(DEADLINE_S):
        while after == before:  # the engine accepts connections for a moment after its end
            locator.invalidate()
            after = await locator.get_endpoint()
    assert after.pid != before.pid
    assert (await detect_service(transport, after.base_url, {}, 10)).pid == after.pid


async def test_an_explicit_address_has_priority_over_an_own_host(
    locate: Callable[..., ServiceLocator],
) -> None:
    async with run_fake_server(make_service_routes("sdk-2.0")) as url:
        locator = locate(base_url=url)
        assert (await locator.get_embedded()).origin == "embedded"
        assert (await locator.get_endpoint()).base_url == url
