"""One service of each generation per test run, and clients of it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from conformance.expectations import EXPECTED, Expected
from conformance.services import (
    FAKE_GENERATIONS,
    MEASURED,
    VERSIONS,
    Service,
    run_fake,
    run_gateway,
    run_real,
)
from foundry_api import FoundryAPIClient, ModelInUse
from foundry_api.wire.http import HttpTransport
from foundry_api.wire.transport import Request, fetch
from support.loopback_catalog import ALIAS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from foundry_api.types.messages import ServiceGeneration
    from foundry_api.wire.transport import BufferedResponse


# They take seconds, and a gateway adds nothing to what the engine behind it does in them.
HERE = Path(__file__).parent
NOT_THROUGH_A_GATEWAY = ("say-after-a-while", "silent_engine", "prompt_cancellation", "is_paged")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def is_selected(item: pytest.Item) -> bool:
        is_ours = item.path.parent == HERE and "gateway" in item.name
        return not (is_ours and any(name in item.name for name in NOT_THROUGH_A_GATEWAY))

    items[:] = filter(is_selected, items)


@pytest.fixture(scope="session")
def start(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[ServiceGeneration], Service]]:
    """Starts the service of a generation when a test first needs it."""
    started: dict[ServiceGeneration, Service] = {}
    with contextlib.ExitStack() as stack:

        def start(generation: ServiceGeneration) -> Service:
            if generation not in started:
                home = tmp_path_factory.mktemp("conformance") / "home"
                started[generation] = stack.enter_context(run_real(generation, home))
            return started[generation]

        yield start


@pytest.fixture(params=[*MEASURED, *FAKE_GENERATIONS])
async def service(
    request: pytest.FixtureRequest,
    start: Callable[[ServiceGeneration], Service],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Service]:
    if request.param in VERSIONS:
        yield start(request.param)
        return
    if request.param == "gateway":
        async with run_gateway(start("sdk-2.1"), tmp_path / "gateway") as service:
            yield service
        return
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    async with run_fake(request.param, tmp_path / "bin") as service:
        yield service


@pytest.fixture
def expected(service: Service) -> Expected:
    """The expected differences of the service."""
    return EXPECTED[service.service_generation]


@pytest.fixture
async def client(service: Service) -> AsyncIterator[FoundryAPIClient]:
    async with FoundryAPIClient(service.base_url, model=ALIAS, max_retries=0) as client:
        yield client


@pytest.fixture
async def settled(service: Service, client: FoundryAPIClient) -> AsyncIterator[None]:
    """Waits after a test until the engine has finished the work that the test left behind."""
    yield
    if service.is_fake:
        return
    async with asyncio.timeout(60):
        while not await _at_rest(service, client):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.05)


async def _at_rest(service: Service, client: FoundryAPIClient) -> bool:
    if service.service_generation != "sdk-1":
        return await _unloaded(client)
    # Unloading to find out would kill it. It is idle when it uses no CPU time.
    before = service.cpu_s()
    await asyncio.sleep(0.3)
    return service.cpu_s() - before < 0.02


async def _unloaded(client: FoundryAPIClient) -> bool:
    """Return whether the service can unload the model, which no call may be using."""
    try:
        await client.models.unload(ALIAS)
    except ModelInUse:
        return False
    return True


class RawClient:
    """Sends requests to the service directly, without this package."""

    def __init__(self, service: Service, transport: HttpTransport) -> None:
        self.transport = transport
        self._service = service

    def request(self, method: str, path: str, **members: Any) -> Request:
        body = msgspec.json.encode(members) if members else None
        headers = {"Content-Type": "application/json"} if members else {}
        return Request(method, f"{self._service.base_url}{path}", headers, body)

    def build_chat_request(self, prompt: str, **members: Any) -> Request:
        messages = [{"role": "user", "content": prompt}]
        members = {"model": self._service.model, "messages": messages, **members}
        return self.request("POST", "/v1/chat/completions", **members)

    async def send(self, method: str, path: str, **members: Any) -> BufferedResponse:
        return await fetch(self.transport, self.request(method, path, **members), timeout_s=60)

    async def chat(self, prompt: str, **members: Any) -> BufferedResponse:
        return await fetch(self.transport, self.build_chat_request(prompt, **members), timeout_s=60)

    async def choice(self, prompt: str, **members: Any) -> dict[str, Any]:
        """Return the choice of a chat completion that is not streamed."""
        reply = await self.chat(prompt, **members)
        assert reply.status == 200, reply.body
        choice: dict[str, Any] = msgspec.json.decode(reply.body)["choices"][0]
        return choice


@pytest.fixture
async def raw(service: Service, client: FoundryAPIClient) -> AsyncIterator[RawClient]:
    """The service with its model loaded."""
    await client.models.load(ALIAS)
    transport = HttpTransport()
    yield RawClient(service, transport)
    await transport.aclose()
