"""Samples and a scripted service, for the tests of the monitor."""

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

# On another machine, whose processes are not read: their times do not follow the tests' clock.
URL = "http://192.0.2.1:5273"

CHAT = "/catalogs/local/v1/chat/completions"


def make_sample(status: str, at: float = 1_800_000_000.0, **members: Any) -> HealthSample:
    """Make a sample with a state equal to its status, unless `members` has another one."""
    values = {"state": status, "interval_s": 1.0, **members}
    return HealthSample(status=status, checked_at=at, **values)  # type: ignore[arg-type]


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
    """A transport to a simulated service, without a socket.

    Attributes:
        up: Whether the service answers.
        slow: Response times in seconds, by path.
        loaded: Ids of the models in memory.
        pid: The pid that the service reports.
        requested_paths: The paths of all requests.
        has_chat_request: Set by the first request for a completion.
    """

    def __init__(self) -> None:
        self.up = True
        self.slow: dict[str, float] = {}
        self.loaded: list[str] = []
        self.pid = 6230
        self.requested_paths: list[str] = []
        self.has_chat_request = asyncio.Event()

    async def send(self, request: Request) -> _Response:
        path = request.url.removeprefix(URL)
        self.requested_paths.append(path)
        if path == CHAT:
            self.has_chat_request.set()
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
    """A target of a monitor, with a `ScriptedTransport`."""

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
