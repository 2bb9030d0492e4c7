"""The same faults on the routes that a call requests before the completion."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from foundry_api import FoundryAPIClient
from foundry_api.engine import discovery
from foundry_api.types import errors
from foundry_api.wire.dialects import sdk2

from .hostile import (
    ScriptedServer,
    encode_chunk,
    encode_events,
    make_response,
    make_stream_head,
    on_route,
)
from .table import BEFORE_THE_ANSWER, BROKEN_STREAMS, OTHER_ANSWERS, TIMEOUT_S, Fault

if TYPE_CHECKING:
    from .hostile import Script

HANG_S = 20.0
FAULTS = BEFORE_THE_ANSWER | OTHER_ANSWERS | BROKEN_STREAMS
ROUTES = ("/status", "/v1/models", "/models/loaded", "/models/load/")
PLAIN = (errors.ServiceCrashed, errors.ServiceNotRunning, errors.ProtocolError)
"""The outcome of stream faults on routes whose responses are not streams."""

IDENTIFYING = (errors.ConfigurationError, errors.UnsupportedFeature)
"""Responses that mean a refused credential or another generation."""


LOOKS_BEFORE_THE_LOAD = 3
"""For the listing, for the claim, and before this client loads the model."""


class Healthy:
    """Responds as SDK 2.2.1 with a model that is not loaded."""

    def __init__(self) -> None:
        self._looks = 0

    def __call__(self, path: str) -> bytes:
        """Return the response to a request."""
        self._looks += path.endswith("/models/loaded")
        return answer_to(path, loaded=self._looks > LOOKS_BEFORE_THE_LOAD)


def answer_to(path: str, *, loaded: bool) -> bytes:
    if path == "/status":
        answer: object = {"endpoints": [], "modelDirPath": "x", "modelCachePath": "x", "pid": 1}
    elif path.endswith("/v1/models"):
        answer = {"object": "list", "data": [{"id": "tiny:1"}]}
    elif path.endswith("/models/loaded"):
        answer = ["tiny:1"] if loaded else []
    elif path.endswith("/chat/completions"):
        return (
            make_stream_head() + b"".join(map(encode_chunk, encode_events("Hello"))) + b"0\r\n\r\n"
        )
    else:
        answer = {}
    return make_response(200, json.dumps(answer).encode())


@pytest.fixture(autouse=True)
def _short_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUICK_TIMEOUT_S", "CATALOG_TIMEOUT_S", "LOAD_TIMEOUT_S"):
        monkeypatch.setattr(sdk2, name, TIMEOUT_S)
    monkeypatch.setattr(discovery, "KNOWN_TIMEOUT_S", TIMEOUT_S)


async def test_routes_are_those_of_a_call() -> None:
    script = on_route("nowhere", lambda _: asyncio.sleep(0), Healthy())
    async with ScriptedServer(script) as server:
        async with FoundryAPIClient(server.base_url, model="tiny") as client:
            assert (await client.complete("Hi")).content == "Hello"
        asked = " ".join(request.path for request in server.requests)
    assert all(route in asked for route in ROUTES)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_fault_on_any_route_is_a_typed_error(fault: Fault, route: str) -> None:
    """Every call ends with a typed error that names the service and has a hint."""
    script: Script = on_route(route, fault.script, Healthy())
    async with (
        ScriptedServer(script) as server,
        asyncio.timeout(HANG_S),
        FoundryAPIClient(server.base_url, model="tiny", max_retries=0) as client,
    ):
        error = await failure_of(client)
    if error is None:
        assert route == "/models/load/"  # its answer has nothing in it that could be wrong
        return
    assert isinstance(error, (fault.error or errors.FoundryError, *PLAIN, *IDENTIFYING))
    assert error.service == server.base_url
    assert error.hint


async def failure_of(client: FoundryAPIClient) -> errors.FoundryError | None:
    try:
        await client.complete("Hi", timeout=TIMEOUT_S)
    except errors.FoundryError as error:
        return error
    return None
