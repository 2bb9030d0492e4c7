"""Every fault of the table has the stated outcome, on both transports."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import foundry_api
from foundry_api.resilience import timeouts
from foundry_api.types import errors
from foundry_api.types.events import AttemptStarted, CallEnded
from foundry_api.wire.loopback import is_loopback_http

from .conftest import with_python_parser
from .hostile import ScriptedServer
from .table import FAULTS, RETRIES, TIMEOUT_S, Fault, make_markdown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foundry_api.core.chat import ChatCall

    from .conftest import Caller

HANG_S = 20.0
"""A call that takes longer is considered hanging."""

CAP = 2


async def whole(call: ChatCall) -> str:
    return (await call.result()).content


async def streamed(call: ChatCall) -> str:
    return "".join([chunk.content async for chunk in call.chunks()])


@pytest.fixture(autouse=True)
def _short_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "KEEP_ALIVE_CAP", CAP)


def over_a_session(_url: str) -> bool:
    """Use the aiohttp session, as for services on other machines."""
    return False


@pytest.mark.parametrize(
    "caller", [is_loopback_http, with_python_parser, over_a_session], indirect=True
)
@pytest.mark.parametrize("way", [whole, streamed])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_outcome_of_a_fault(
    caller: Caller, fault: Fault, way: Callable[[ChatCall], Awaitable[str]]
) -> None:
    async with ScriptedServer(fault.script) as server, asyncio.timeout(HANG_S):
        if fault.pooled:
            await caller.make_call(server.base_url).result()
            caller.events.clear()
        call = caller.make_call(server.base_url, retries=RETRIES, timeout_s=fault.timeout_s)
        if fault.error is None:
            assert await way(call) == fault.text
        else:
            with pytest.raises(errors.FoundryError) as caught:
                await way(call)
            check(caught.value, fault, server)
        attempts = [event for event in caller.events if isinstance(event, AttemptStarted)]
        assert len(attempts) == fault.attempts
    check_events(caller, fault)


def check(error: errors.FoundryError, fault: Fault, server: ScriptedServer) -> None:
    assert type(error) is fault.error
    assert type(error).__name__ in foundry_api.__all__
    assert error.partial == fault.text
    assert (error.model, error.service) == ("tiny:1", server.base_url)
    assert error.attempts == fault.attempts == len(error.causes) == len(server.requests)
    assert error.hint
    assert str(error).endswith(error.hint)
    if isinstance(error, errors.CallTimeout):
        assert error.limit_s == pytest.approx(
            TIMEOUT_S * (CAP if fault.ended_by == "keep-alive limit" else 1)
        )
        assert error.stage == ("streaming" if fault.text else "waiting for the first token")
    else:
        assert fault.ended_by == "fault"


def check_events(caller: Caller, fault: Fault) -> None:
    """However a call ends, its end is the last event, and is sent once."""
    *_, end = caller.events
    assert isinstance(end, CallEnded)
    assert sum(isinstance(event, CallEnded) for event in caller.events) == 1
    assert end.outcome == ("answered" if fault.error is None else "failed")
    assert end.content == fault.text
    assert len(end.attempts) == fault.attempts


def test_documentation_has_this_table() -> None:
    written = Path(__file__).parents[2] / "docs" / "faults.md"
    assert written.read_text(encoding="utf-8") == make_markdown()
