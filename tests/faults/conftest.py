"""Makes calls to a hostile server over a real transport."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

import foundry_api.wire.session  # noqa: F401 - or the first call imports it, within its time limit
from foundry_api.core.call import CallRequest
from foundry_api.core.chat import make_chat_call, make_chat_request
from foundry_api.core.connection import Connection
from foundry_api.engine.endpoint import Endpoint
from foundry_api.resilience.deadline import NEVER, Deadline
from foundry_api.types.models import Model
from foundry_api.wire import loopback
from foundry_api.wire.http import HttpTransport
from foundry_api.wire.http_parser import ResponseParser
from foundry_api.wire.loopback import is_loopback_http
from support.factories import make_call_context, make_service_handle
from support.virtual_time import SteadyTimeLoop

from .hostile import ScriptedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from foundry_api.core.call import CallContext
    from foundry_api.core.chat import ChatCall
    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.types.events import Event
    from foundry_api.types.messages import ChatRequest, ServiceGeneration

MODEL = Model(id="tiny:1", alias="tiny", catalog="local", cached=True, loaded=True)
REQUEST = make_chat_request([{"role": "user", "content": "Hi"}])


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A fault that ends a call within a time limit does so on a busy machine too."""
    return {"loop": asyncio.new_event_loop if sys.platform == "win32" else SteadyTimeLoop}


@dataclass
class Caller:
    """Makes calls to one address, where the model is assumed to be loaded.

    Attributes:
        transport: Sends the requests.
        slept: The waits before retries, which do not really happen.
        events: The events of the calls.
        services: The services that were called.
        loads: The models that were loaded.
        invalidations: How often a service was reported lost.
        service_generation: The assumed generation of the service.
    """

    transport: HttpTransport
    slept: list[float] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    services: list[ServiceHandle] = field(default_factory=list)
    invalidations: int = 0
    loads: list[Model] = field(default_factory=list)
    service_generation: ServiceGeneration = "sdk-2.1"

    def make_call(
        self,
        base_url: str,
        *,
        retries: int = 0,
        timeout_s: float = 5.0,
        request: ChatRequest = REQUEST,
        deadline: Deadline = NEVER,
    ) -> ChatCall:
        """Make a call to model `tiny`."""
        tools = self.make_context(base_url, retries=retries)
        return make_chat_call(tools, CallRequest(("tiny",), request, timeout_s, deadline))

    def make_context(self, base_url: str, *, retries: int = 0) -> CallContext:
        """Make the context that the calls of a client share."""

        async def connect() -> Connection:
            endpoint = Endpoint(
                base_url=base_url, service_generation=self.service_generation, origin="explicit"
            )
            connection = Connection(endpoint, self.transport, {}, None)
            connection.models.loaded.add(MODEL.id)
            connection.dialect.list_local_models = self._models  # type: ignore[method-assign]
            connection.dialect.load = self._load  # type: ignore[method-assign]
            connection.is_replaced = self._never  # type: ignore[method-assign]
            return connection

        service = make_service_handle(base_url, connect, self._on_lost)
        self.services.append(service)
        return make_call_context(
            service, retries=retries, sleep=self.sleep, listener=self.events.append
        )

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        # A real wait is longer than a server needs to close a connection after its answer. The
        # server runs on this event loop, and closes it some iterations later.
        for server in ScriptedServer.running:
            await server.settle()

    async def aclose(self) -> None:
        for service in self.services:
            await service.aclose()

    async def _models(self) -> list[Model]:
        return [MODEL]

    async def _load(self, model: Model) -> None:
        self.loads.append(model)

    async def _never(self) -> bool:
        return False

    def _on_lost(self) -> None:
        self.invalidations += 1


def with_python_parser(url: str) -> bool:
    """Use the loopback pool, with the parser in Python."""
    return is_loopback_http(url)


@pytest.fixture
async def caller(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Caller]:
    """A caller over the HTTP transport; a parameter chooses what uses the loopback pool."""
    use_loopback = getattr(request, "param", is_loopback_http)
    if use_loopback is with_python_parser:
        monkeypatch.setattr(loopback, "make_parser", ResponseParser)
    transport = HttpTransport(use_loopback=use_loopback)
    caller = Caller(transport)
    yield caller
    await caller.aclose()
    await transport.aclose()
