"""The control API of an engine host: engine features that its own web service does not offer.

It listens on the loopback only. Every request carries the host's bearer token.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import psutil
from aiohttp import web

from foundry_api.engine.control_messages import HostMemory
from foundry_api.engine.host.downloads import DownloadManager
from foundry_api.types.errors import (
    CatalogUnavailable,
    DownloadFailed,
    FoundryError,
    InvalidRequest,
    ModelInUse,
    ModelNotFound,
    ModelRegistrationFailed,
)
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from foundry_api.engine.control_messages import HostInfo
    from foundry_api.engine.host.native import Engine

__all__ = ["ControlAPI"]

MAX_BODY_BYTES = 64 * 1024
_STATUSES: tuple[tuple[type[FoundryError], int], ...] = (
    (ModelNotFound, 404),
    (ModelRegistrationFailed, 422),
    (ModelInUse, 409),
    (CatalogUnavailable, 503),
    (DownloadFailed, 502),
    (InvalidRequest, 400),
)


class _Registration(msgspec.Struct, frozen=True):
    path: str
    alias: str


class _Download(msgspec.Struct, frozen=True):
    model: str


_Body = TypeVar("_Body", _Registration, _Download)


class ControlAPI:
    """The routes of the control API.

    `exit_process` is called after the response to `POST /shutdown` has been sent.
    """

    def __init__(
        self,
        engine: Engine,
        token: str,
        get_info: Callable[[], HostInfo],
        exit_process: Callable[[], None],
        *,
        downloads: DownloadManager | None = None,
    ) -> None:
        self._engine = engine
        self._downloads = downloads or DownloadManager(engine)
        self._expected = f"Bearer {token}".encode()
        self._get_info = get_info
        self._exit_process = exit_process
        # The memory of the engine itself, without models that a client loaded before the control
        # API was imported.
        resident_bytes = _get_resident_bytes()
        try:
            loaded = [model for model in engine.list_local_models() if model.loaded]
        except FoundryError:  # an unreadable list, which every later request for a model reports
            loaded = []
        loaded_bytes = sum((model.size_mb or 0) * 2**20 for model in loaded)
        self._own_bytes = resident_bytes - loaded_bytes

    def make_app(self) -> web.Application:
        app = web.Application(
            middlewares=[self._authorize, _translate_errors], client_max_size=MAX_BODY_BYTES
        )
        app.add_routes(
            [
                web.get("/host", self._get_host),
                web.get("/catalog", self._get_catalog),
                web.post("/models", self._register),
                web.delete("/models/{name}", self._unregister),
                web.delete("/cache/{name}", self._remove),
                web.post("/download", self._download),
                web.get("/memory", self._get_memory),
                web.post("/shutdown", self._shutdown),
            ]
        )
        return app

    @web.middleware
    async def _authorize(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        authorization = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(authorization, self._expected):
            return _error_body(401, "Unauthorized", "the control token is missing or wrong")
        # Refuses DNS rebinding: a web page whose name was changed to the loopback address.
        if not is_loopback(f"http://{request.host}"):
            return _error_body(403, "Forbidden", "the Host header does not name the loopback")
        return await handler(request)

    async def _get_host(self, _: web.Request) -> web.Response:
        return _json_response(self._get_info())

    async def _get_catalog(self, request: web.Request) -> web.Response:
        if request.query.get("public") == "1":
            return _json_response(await asyncio.to_thread(self._engine.list_public_models))
        return _json_response({"models": await asyncio.to_thread(self._engine.list_local_models)})

    async def _register(self, request: web.Request) -> web.Response:
        registration = await _read_body(request, _Registration)
        # Only the sender knows which directory a relative path starts from.
        if not Path(registration.path).is_absolute():
            raise InvalidRequest(f"the path {registration.path!r} is not absolute", field="path")
        model = await asyncio.to_thread(
            self._engine.register, Path(registration.path), registration.alias
        )
        return _json_response({"model": model})

    async def _unregister(self, request: web.Request) -> web.Response:
        await asyncio.to_thread(self._engine.unregister, request.match_info["name"])
        return _json_response({})

    async def _remove(self, request: web.Request) -> web.Response:
        freed = await asyncio.to_thread(self._engine.remove, request.match_info["name"])
        return _json_response({"freed_bytes": freed})

    async def _get_memory(self, _: web.Request) -> web.Response:
        rss = await asyncio.to_thread(_get_resident_bytes)
        memory = HostMemory(
            rss_bytes=rss,
            models_bytes=max(rss - self._own_bytes, 0),
            includes=("engine", "loaded models", "host"),
        )
        return _json_response(memory)

    async def _shutdown(self, request: web.Request) -> web.StreamResponse:
        response = _json_response({"status": "leaving"})
        await response.prepare(request)
        await response.write_eof()
        self._exit_process()
        return response

    async def _download(self, request: web.Request) -> web.StreamResponse:
        """Send progress lines, then `done` or the error."""
        # aiohttp cancels this handler when its client disconnects, which ends its subscription.
        request_body = await _read_body(request, _Download)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async with contextlib.aclosing(self._stream_lines(request_body.model)) as lines:
            async for line in lines:
                await response.write(msgspec.json.encode(line) + b"\n")
        await response.write_eof()
        return response

    async def _stream_lines(self, name: str) -> AsyncGenerator[dict[str, Any], None]:
        try:
            async with contextlib.aclosing(self._downloads.subscribe(name)) as steps:
                async for percent in steps:
                    yield {"percent": percent}
        except FoundryError as error:
            yield {"error": _describe_error(error)}
        else:
            yield {"done": True}


@web.middleware
async def _translate_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except FoundryError as error:
        status = next((code for kind, code in _STATUSES if isinstance(error, kind)), 500)
        return _json_response(_describe_error(error), status=status)
    except web.HTTPException as error:
        return _error_body(error.status, "InvalidRequest", error.reason)


def _get_resident_bytes() -> int:
    return psutil.Process().memory_info().rss


def _describe_error(error: FoundryError) -> dict[str, str | None]:
    return {
        "kind": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "model": error.model,
        "field": error.field if isinstance(error, InvalidRequest) else None,
    }


def _error_body(status: int, kind: str, message: str) -> web.Response:
    return _json_response({"kind": kind, "message": message}, status=status)


def _json_response(content: object, *, status: int = 200) -> web.Response:
    body = msgspec.json.encode(content)
    return web.Response(body=body, status=status, content_type="application/json")


async def _read_body(request: web.Request, kind: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"the body does not fit this route: {error}") from error
