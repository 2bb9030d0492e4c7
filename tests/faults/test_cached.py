"""Calls with a cache fail in the same way for every fault of the table."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from foundry_api.core.cache.calls import CachedCall, CachedCalls
from foundry_api.core.cache.memory import MemoryCache
from foundry_api.core.call import CallRequest
from foundry_api.resilience import timeouts
from foundry_api.resilience.deadline import NEVER
from foundry_api.types import errors
from foundry_api.types.events import CacheHit, CacheStored, CallEnded

from .conftest import REQUEST
from .hostile import ScriptedServer
from .table import FAULTS, RETRIES, Fault
from .test_table import CAP, HANG_S, check, streamed, whole

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .conftest import Caller

GREEDY = msgspec.structs.replace(REQUEST, temperature=0.0)


@pytest.fixture(autouse=True)
def _short_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "KEEP_ALIVE_CAP", CAP)


@pytest.mark.parametrize("way", [whole, streamed])
@pytest.mark.parametrize(
    "fault",
    [fault for fault in FAULTS.values() if not fault.pooled],
    ids=[name for name, fault in FAULTS.items() if not fault.pooled],
)
async def test_outcome_of_a_fault(
    caller: Caller, fault: Fault, way: Callable[[CachedCall], Awaitable[str]]
) -> None:
    """Only complete answers are cached and returned without the service."""
    cache = MemoryCache()
    async with ScriptedServer(fault.script) as server, asyncio.timeout(HANG_S):
        calls = CachedCalls(caller.make_context(server.base_url, retries=RETRIES), cache)
        order = CallRequest(("tiny",), GREEDY, fault.timeout_s, NEVER)
        if fault.error is None:
            assert [await way(calls.call(order)) for _ in range(2)] == [fault.text] * 2
        else:
            with pytest.raises(errors.FoundryError) as caught:
                await way(calls.call(order))
            check(caught.value, fault, server)
        assert len(server.requests) == fault.attempts
    kept = 1 if fault.error is None else 0
    assert (await cache.stats()).entries == kept
    ends = [event for event in caller.events if isinstance(event, CallEnded)]
    assert [end.cached for end in ends] == [False] + [True] * kept
    assert {end.content for end in ends} == {fault.text}
    for kind in (CacheStored, CacheHit):
        assert sum(isinstance(event, kind) for event in caller.events) == kept
