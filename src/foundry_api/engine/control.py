"""A client for the control API of an engine host."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import msgspec

from foundry_api.engine.control_messages import HostInfo, HostMemory, PublicListing
from foundry_api.types import errors
from foundry_api.types.errors import (
    DownloadFailed,
    FoundryError,
    InvalidRequest,
    ProtocolError,
    ServerError,
    StreamInterrupted,
)
from foundry_api.types.local_path import absolute_path
from foundry_api.types.models import Model
from foundry_api.wire.errors import NOT_JSON
from foundry_api.wire.transport import Request, fetch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from foundry_api.engine.endpoint import ControlAddress
    from foundry_api.wire.transport import Response, Transport

__all__ = ["ControlClient"]

TIMEOUT_S = 10.0
# The engine requests the public catalog region by region, each with its own time-outs.
CATALOG_TIMEOUT_S = 120.0
MAX_LINE_BYTES = 64 * 1024
_OK = 200


_Decoded = TypeVar("_Decoded")


class _Models(msgspec.Struct, frozen=True):
    models: list[Model]


class _OneModel(msgspec.Struct, frozen=True):
    model: Model


class _Removed(msgspec.Struct, frozen=True):
    freed_bytes: int


class _Failure(msgspec.Struct, frozen=True):
    kind: str
    message: str
    hint: str | None = None
    model: str | None = None
    field: str | None = None


class _Progress(msgspec.Struct, frozen=True):
    percent: float | None = None
    done: bool = False
    error: _Failure | None = None


class ControlClient:
    """Calls the control API. Every method raises the FoundryError that the host reports."""

    def __init__(self, transport: Transport, address: ControlAddress) -> None:
        self._transport = transport
        self._url = address.url
        self._headers = {
            "Authorization": f"Bearer {address.token}",
            "Content-Type": "application/json",
        }

    async def get_host_info(self) -> HostInfo:
        return _decode(await self._call("GET", "/host"), HostInfo)

    async def get_memory(self) -> HostMemory:
        return _decode(await self._call("GET", "/memory"), HostMemory)

    async def list_local_models(self) -> list[Model]:
        """List every registered model directory."""
        return _decode(await self._call("GET", "/catalog"), _Models).models

    async def list_public_models(self) -> PublicListing:
        """List every variant of the public catalog. Takes seconds if it cannot be reached."""
        reply = await self._call("GET", "/catalog?public=1", timeout_s=CATALOG_TIMEOUT_S)
        return _decode(reply, PublicListing)

    async def register(self, path: Path | str, alias: str) -> Model:
        """Register a model directory, as a new version if its files or its place changed."""
        try:
            # The host has another working directory, so a relative path would mean another place.
            body = {"path": str(absolute_path(path)), "alias": alias}
        except ValueError as error:
            raise InvalidRequest(f"path is {path!r}: {error}", field="path") from error
        return _decode(await self._call("POST", "/models", body), _OneModel).model

    async def unregister(self, name: str) -> None:
        """Unregister an alias or an id, but keep the files."""
        await self._call("DELETE", f"/models/{quote(name, safe='')}")

    async def remove(self, name: str) -> int:
        """Delete the files of a downloaded model and return how many bytes that freed."""
        path = f"/cache/{quote(name, safe='')}"
        reply = await self._call("DELETE", path, timeout_s=CATALOG_TIMEOUT_S)
        return _decode(reply, _Removed).freed_bytes

    async def download(self, name: str) -> AsyncGenerator[float, None]:
        """Download a model and yield percent, repeated while bytes arrive without progress.

        Closing the generator cancels the download, unless other clients wait for it too.
        """
        response = await self._transport.send(
            self._make_request("POST", "/download", {"model": name})
        )
        try:
            if response.status != _OK:
                body = b""
                while block := await response.read():
                    body += block
                raise _parse_failure(body)
            async with contextlib.aclosing(_iter_lines(response)) as lines:
                async for line in lines:
                    step = _decode(line, _Progress)
                    if step.error is not None:
                        raise _make_error(step.error).with_context(model=name)
                    if step.done:
                        return
                    if step.percent is not None:
                        yield step.percent
            raise _make_exit_error(name)
        except StreamInterrupted as error:
            raise _make_exit_error(name) from error
        finally:
            response.close()

    async def shutdown(self) -> None:
        await self._call("POST", "/shutdown")

    async def _call(
        self, method: str, path: str, body: Any = None, *, timeout_s: float = TIMEOUT_S
    ) -> bytes:
        reply = await fetch(
            self._transport, self._make_request(method, path, body), timeout_s=timeout_s
        )
        if reply.status != _OK:
            raise _parse_failure(reply.body)
        return reply.body

    def _make_request(self, method: str, path: str, body: Any = None) -> Request:
        encoded = None if body is None else msgspec.json.encode(body)
        return Request(method, f"{self._url}{path}", self._headers, encoded)


async def _iter_lines(response: Response) -> AsyncGenerator[bytes, None]:
    rest = b""
    while block := await response.read():
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise ProtocolError(f"a line of the host is longer than {MAX_LINE_BYTES} bytes")
        for line in lines:
            yield line


def _make_exit_error(model: str) -> DownloadFailed:
    return DownloadFailed("the host exited during the download", model=model)


def _decode(body: bytes, kind: type[_Decoded]) -> _Decoded:
    try:
        return msgspec.json.decode(body, type=kind)
    except NOT_JSON as error:
        raise ProtocolError(f"the host sent an invalid message: {error}") from error


def _parse_failure(body: bytes) -> FoundryError:
    try:
        return _make_error(msgspec.json.decode(body, type=_Failure))
    except NOT_JSON:
        return ServerError("the host failed without an error message")


def _make_error(failure: _Failure) -> FoundryError:
    # The host sends the name of a FoundryError. Any other name is an internal error of the host.
    error_type = getattr(errors, failure.kind, None) if failure.kind in errors.__all__ else None
    if isinstance(error_type, type) and issubclass(error_type, FoundryError):
        error = error_type(failure.message)
        error.hint = failure.hint or error.hint
        if isinstance(error, InvalidRequest):
            error.field = failure.field
        return error.with_context(model=failure.model)
    return ServerError(failure.message)
