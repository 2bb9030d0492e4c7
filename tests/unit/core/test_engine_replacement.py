"""When an engine that reads abandoned prompts is replaced."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.core.engine_replacement import MIN_REMAINING_S, EngineReplacement
from foundry_api.core.residency.usage import ModelUsage
from foundry_api.resilience.limiter import Limiter
from foundry_api.types.errors import ServiceStartFailed

if TYPE_CHECKING:
    from support.virtual_time import Run


class FakeHost:
    is_closed = False

    async def aclose(self) -> None:
        self.is_closed = True


class FakeService:
    """A service whose engine reads one abandoned prompt, with one call that it still answers."""

    def __init__(self, *, remaining_s: float | None = None, origin: str = "embedded") -> None:
        self.usage = ModelUsage()
        self.usage.calls = 1
        self.connection: Any = SimpleNamespace(
            base_url="http://a",
            endpoint=SimpleNamespace(origin=origin),
            models=SimpleNamespace(usages={"tiny:1": self.usage}),
            stored_responses=SimpleNamespace(is_empty=True),
            downloads=0,
        )
        self.limiter = Limiter()
        self.limiter.abandoned.add(None, remaining_s)
        self.abandoned_reads = self
        self.dropped: list[Any] = []
        self.host = FakeHost()
        self.retired = 0
        self.failure: ServiceStartFailed | None = None
        self.replacement = EngineReplacement(self, self.retire_host)  # type: ignore[arg-type]

    def retire_host(self) -> Any:
        if self.failure is not None:
            raise self.failure
        self.retired += 1
        return self.host

    def invalidate(self, connection: Any) -> None:
        self.dropped.append(connection)

    async def aclose(self) -> None:  # of the abandoned reads
        self.limiter.abandoned.clear()

    async def start(self) -> None:
        self.replacement.start()
        await asyncio.sleep(1)


def test_old_engine_ends_after_its_last_call(run: Run) -> None:
    async def scenario() -> None:
        service = FakeService()
        await service.start()
        assert (service.retired, service.dropped) == (1, [service.connection])
        assert not service.limiter.abandoned
        assert not service.host.is_closed
        service.usage.end_call(0.0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert service.host.is_closed

    run(scenario())


def test_only_one_engine_is_replaced_at_a_time(run: Run) -> None:
    async def scenario() -> None:
        service = FakeService()
        await service.start()
        service.limiter.abandoned.add(None, None)
        await service.start()
        assert service.retired == 1
        await service.replacement.aclose()
        assert service.host.is_closed
        await service.start()
        assert service.retired == 2

    run(scenario())


@pytest.mark.parametrize("remaining_s", [None, MIN_REMAINING_S + 1])
def test_long_or_unknown_reading_is_a_reason(run: Run, remaining_s: float | None) -> None:
    async def scenario() -> None:
        service = FakeService(remaining_s=remaining_s)
        await service.start()
        assert service.retired == 1
        await service.replacement.aclose()

    run(scenario())


@pytest.mark.parametrize(
    "reason",
    ["no prompt", "soon read", "shared", "explicit", "download", "response", "no connection"],
)
def test_engine_stays(run: Run, reason: str) -> None:
    async def scenario() -> None:
        service = FakeService(
            remaining_s=MIN_REMAINING_S / 2 if reason == "soon read" else None,
            origin=reason if reason in {"shared", "explicit"} else "embedded",
        )
        if reason == "no prompt":
            service.limiter.abandoned.clear()
        service.connection.downloads = reason == "download"
        service.connection.stored_responses.is_empty = reason != "response"
        if reason == "no connection":
            service.connection = None
        await service.start()
        assert service.retired == 0

    run(scenario())


def test_engine_that_cannot_be_started_replaces_nothing(run: Run) -> None:
    async def scenario() -> None:
        service = FakeService()
        service.failure = ServiceStartFailed("no memory")
        await service.start()
        assert (service.dropped, len(service.limiter.abandoned)) == ([], 1)

    run(scenario())
