"""What the tests of the monitor share: samples, and a client whose service follows a script."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.core.service_pool import ServiceHandle
from foundry_api.engine.endpoint import Endpoint
from foundry_api.monitor.types import HealthSample
from foundry_api.resilience.breaker import CircuitBreaker
from foundry_api.resilience.limiter import Limiter, LimiterSettings
from foundry_api.types.errors import ServiceNotRunning
from foundry_api.types.events import EventBus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foundry_api.wire.transport import Request

URL = "http://192.0.2.1:5273"
"""Of another machine, whose processes are not looked at: their clock is the real one."""

CHAT = "/catalogs/local/v1/chat/completions"


def seen(status: str, at: float = 1_800_000_000.0, **members: Any) -> HealthSample:
    """A sample in which state and status agree, unless told otherwise."""
    told = {"state": status, "interval_s": 1.0, **members}
    return HealthSample(status=status, checked_at=at, **told)  # type: ignore[arg-type]


class _Response:
    headers: Mapping[str, str] = {}

    def __init__(self, body: bytes, status: int) -> None:
        self.status = status
        self._body = body

    @property
    def ended(self) -> bool:
        return not self._body

    async def read(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def close(self) -> None:
        """Nothing is open."""


class ScriptedTransport:
    """A transport whose service is up, down or slow as it is told; no socket is involved.

    Attributes:
        up: Whether anything answers.
        slow: Seconds that a route takes, by its path.
        loaded: Ids of the models in memory.
        pid: The process that it says it is.
        asked: The paths that were asked for.
        chatting: Set once a completion was asked for.
    """

    def __init__(self) -> None:
        self.up = True
        self.slow: dict[str, float] = {}
        self.loaded: list[str] = []
        self.pid = 6230
        self.asked: list[str] = []
        self.chatting = asyncio.Event()

    async def send(self, request: Request) -> _Response:
        path = request.url.removeprefix(URL)
        self.asked.append(path)
        if path == CHAT:
            self.chatting.set()
        if not self.up:
            raise ServiceNotRunning("nothing is there", service=URL)
        await asyncio.sleep(self.slow.get(path, 0.0))
        return _Response(*self._answer(path))

    async def aclose(self) -> None:
        """Nothing is open."""

    def _answer(self, path: str) -> tuple[bytes, int]:
        if path == "/status":
            status = {"pid": self.pid, "modelCachePath": "/nowhere"}
            return msgspec.json.encode(status), 200
        if path == "/catalogs/local/models/loaded":
            return msgspec.json.encode(self.loaded), 200
        if path == "/models/loaded":
            return b"[]", 200
        if path == "/catalogs/local/v1/models":
            listing = {"data": [{"id": id_} for id_ in self.loaded]}
            return msgspec.json.encode(listing), 200
        if path.startswith("/catalogs/local/models/load/"):
            return b"{}", 200
        return b"{}", 404


class WatchedService:
    """What a monitor looks at, over a `ScriptedTransport`."""

    def __init__(self, limits: LimiterSettings | None = None) -> None:
        self.transport = ScriptedTransport()
        self.events = EventBus()
        self.connect_s = 0.0
        self.service = ServiceHandle(
            "the service",
            self._connect,
            lambda: None,
            CircuitBreaker(),
            Limiter(limits or LimiterSettings()),
        )

    @property
    def services(self) -> tuple[ServiceHandle, ...]:
        return (self.service,)

    async def _connect(self) -> Any:
        from foundry_api.core.connection import Connection  # noqa: PLC0415 - only here

        await asyncio.sleep(self.connect_s)
        if not self.transport.up:
            raise ServiceNotRunning("nothing is there")
        endpoint = Endpoint(
            base_url=URL, service_generation="sdk-2.1", origin="explicit", pid=self.transport.pid
        )
        return Connection(endpoint, self.transport, {}, None)
