"""Detection of the generations, with recorded and documented responses."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.types.access_errors import PermissionDenied
from foundry_api.types.errors import (
    ConfigurationError,
    FoundryError,
    ProtocolError,
    ServerError,
    ServiceNotRunning,
    ServiceOverloaded,
)
from foundry_api.wire.dialects.base import ServiceStatus
from foundry_api.wire.dialects.detect import detect_service

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foundry_api.wire.transport import Request

URL = "http://127.0.0.1:5273"

Routes = dict[str, tuple[int, bytes]]


class Answer:
    """A response that has already arrived."""

    ended = False

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {}
        self._body = body

    async def read(self) -> bytes:
        block, self._body = self._body[:1000], self._body[1000:]
        return block

    def close(self) -> None:
        pass


class Service:
    """A transport that answers from a table of routes, and with 404 for others."""

    def __init__(self, routes: Routes) -> None:
        self.routes = routes
        self.asked: list[Request] = []

    async def send(self, request: Request) -> Answer:
        self.asked.append(request)
        return Answer(*self.routes.get(request.url.removeprefix(URL), (404, b"")))


def json_response(**members: Any) -> tuple[int, bytes]:
    return 200, json.dumps(members).encode()


SDK_2 = json_response(endpoints=[URL], modelCachePath="/cache", pid=6230)
SDK_1 = json_response(endpoints=[URL], modelDirPath="/cache", pipeName=None)
LEGACY = json_response(endpoints=[URL], modelDirPath="C:\\models", pipeName=None)
LISTED = json_response(data=[], object="list")
NO_CATALOG = b'{"error":{"message":"Failed to retrieve model list: Catalog request failed"}}'
LOCAL = "/catalogs/local/v1/models"


@pytest.mark.parametrize(
    ("routes", "status"),
    [
        ({"/status": SDK_2, LOCAL: LISTED}, ServiceStatus("sdk-2.1", 6230, "/cache")),
        ({"/status": SDK_2}, ServiceStatus("sdk-2.0", 6230, "/cache")),
        ({"/status": SDK_1}, ServiceStatus("sdk-1", None, "/cache")),
        ({"/openai/status": LEGACY}, ServiceStatus("legacy", None, "C:\\models")),
        (
            {"/openai/status": json_response(Endpoints=[URL], ModelDirPath="/m", PipeName="x")},
            ServiceStatus("legacy", None, "/m"),
        ),
        ({"/openai/status": json_response(Endpoints=[URL])}, ServiceStatus("legacy")),
        ({"/v1/models": json_response(data=[], IsDelta=False)}, ServiceStatus("cli-0.10")),
        (
            {"/v1/models": json_response(data=[{"id": "x", "parent": "y", "IsDelta": False}])},
            ServiceStatus("cli-0.10"),
        ),
        ({"/v1/models": (500, NO_CATALOG)}, ServiceStatus("cli-0.10")),
        (
            {"/status": (405, b""), "/openai/status": LEGACY},
            ServiceStatus("legacy", None, "C:\\models"),
        ),
    ],
)
async def test_generation_is_detected_by_its_routes(routes: Routes, status: ServiceStatus) -> None:
    assert await detect_service(Service(routes), URL, {}, 1.0) == status


@pytest.mark.parametrize(
    "routes",
    [
        {},
        {"/status": (200, b"<html>hello</html>")},
        {"/status": (200, b"")},
        {"/status": (200, b"\xff\xfe")},
        {"/status": (200, b"[1]")},
        {"/status": json_response(modelCachePath="/cache", pid="6230")},
        {"/status": json_response(status="ok")},
        {"/status": (302, b"")},
        {"/status": (500, b"oops")},
        {"/status": (200, b'{"pid": 1, "x": "' + b"y" * 70_000 + b'"}')},
        {"/openai/status": (200, b"<html>")},
        {"/openai/status": json_response(status="ok")},
        {"/v1/models": LISTED},
        {"/v1/models": json_response(data=[1])},
        {"/v1/models": (200, b"[]")},
        {"/v1/models": (500, b"oops")},
    ],
)
async def test_anything_else_is_not_a_service(routes: Routes) -> None:
    with pytest.raises(ProtocolError):
        await detect_service(Service(routes), URL, {}, 1.0)


async def test_failing_service_is_not_taken_for_an_older_one() -> None:
    with pytest.raises(ServerError) as caught:
        await detect_service(Service({"/status": SDK_2, LOCAL: (500, b"")}), URL, {}, 1.0)
    assert caught.value.service == URL


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credential_is_reported(status: int) -> None:
    with pytest.raises(ConfigurationError, match="refuses the credential") as caught:
        await detect_service(
            Service({"/status": (status, b"")}), URL, {"Authorization": "Bearer k"}, 1
        )
    assert "FOUNDRY_API_KEY" in caught.value.hint
    assert "Bearer" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "insufficient_scope", PermissionDenied),
        (429, "too_many_failures", ServiceOverloaded),
        (503, "shutting_down", ServiceOverloaded),
    ],
)
async def test_a_gateway_that_refuses_is_not_another_service(
    status: int, code: str, expected: type[FoundryError]
) -> None:
    answer = (status, json.dumps({"error": {"message": "Why it refuses.", "code": code}}).encode())
    with pytest.raises(expected, match="Why it refuses") as caught:
        await detect_service(Service({"/status": answer}), URL, {}, 1.0)
    assert (caught.value.service, caught.value.status) == (URL, status)


async def test_credential_is_sent_with_every_request() -> None:
    service = Service({"/status": SDK_2, LOCAL: LISTED})
    await detect_service(service, URL, {"Authorization": "Bearer k"}, 1.0)
    assert len(service.asked) == 2
    assert all(request.headers["Authorization"] == "Bearer k" for request in service.asked)
    assert {request.method for request in service.asked} == {"GET"}


async def test_timeout_covers_all_requests() -> None:
    class Silent(Service):
        async def send(self, request: Request) -> Answer:
            if len(self.asked) == 1:
                await asyncio.Event().wait()
            return await super().send(request)

    with pytest.raises(ServiceNotRunning, match="within"):
        await detect_service(Silent({"/openai/status": LEGACY}), URL, {}, 0.05)


async def test_transport_errors_pass() -> None:
    class Gone(Service):
        async def send(self, request: Request) -> Answer:
            raise ServiceNotRunning(f"nothing at {request.url}")

    with pytest.raises(FoundryError, match="nothing at"):
        await detect_service(Gone({}), URL, {}, 1.0)
