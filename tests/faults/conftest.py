"""Calls to a hostile server, without anything between the call and the wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from foundry_api.arguments import chat_request
from foundry_api.backoff import Backoff
from foundry_api.call import ChatCall, Order
from foundry_api.connection import Connection
from foundry_api.messages import Model
from foundry_api.service.endpoint import Endpoint
from foundry_api.wire.http import HttpTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from foundry_api.messages import ChatRequest

MODEL = Model(id="tiny:1", alias="tiny", catalog="local", cached=True, loaded=True)
REQUEST = chat_request([{"role": "user", "content": "Hi"}])


@dataclass
class Caller:
    """Makes calls to one address, and stands in for the client that would find the service.

    Attributes:
        slept: The waits before further attempts; none of them really happened.
        lost: The connections that the calls gave up.
    """

    transport: HttpTransport
    slept: list[float] = field(default_factory=list)
    lost_connections: list[Connection] = field(default_factory=list)

    def call(
        self,
        base_url: str,
        *,
        retries: int = 0,
        timeout_s: float = 5.0,
        request: ChatRequest = REQUEST,
    ) -> ChatCall:
        """A call of `tiny`, which is taken to be loaded."""
        endpoint = Endpoint(base_url=base_url, generation="sdk-2.1", origin="explicit")
        self.connection = Connection(endpoint, self.transport, {}, None)
        self.connection._loaded.add(MODEL.id)
        backoff = Backoff(0.1, 5.0, uniform=lambda _, high: high)
        order = Order("tiny", request, timeout_s)
        return ChatCall(self, order, retries=retries, backoff=backoff, sleep=self._sleep)

    async def route(self, name: str, *, download: bool) -> tuple[Connection, Model]:
        assert (name, download) == ("tiny", False)
        return self.connection, MODEL

    def lost(self, connection: Connection) -> None:
        self.lost_connections.append(connection)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    """Makes calls over a real HTTP transport."""
    transport = HttpTransport()
    yield Caller(transport)
    await transport.aclose()
