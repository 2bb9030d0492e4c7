"""Wraps the user's own transport so that all its failures become HookFailed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar, cast

from foundry_api.types.errors import FoundryError, HookFailed
from foundry_api.types.user_code import UserCode, describe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foundry_api.wire.transport import Request, Response, Transport

__all__ = ["CustomTransport"]

_T = TypeVar("_T")  # the result of the user's method

log = logging.getLogger("foundry_api")

HINT = (
    "Read the exception that caused this one and correct the transport. What it may raise and must "
    "return is documented in foundry_api.wire.transport.Transport."
)


class CustomTransport:
    """Sends requests with a transport that the user passed to the client."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def send(self, request: Request) -> Response:
        """Send a request and wait for the head of its response. See `Transport.send`."""
        return _CustomResponse(await _call_custom("send", lambda: self._transport.send(request)))

    async def aclose(self) -> None:
        await _call_custom("aclose", self._transport.aclose)


class _CustomResponse:
    def __init__(self, response: Response) -> None:
        self._response = response
        status, headers = getattr(response, "status", None), getattr(response, "headers", None)
        if not isinstance(status, int) or not isinstance(headers, Mapping):
            raise HookFailed(
                f"transport.send returned {type(response).__name__} without status and headers, "
                "not a response",
                hint=HINT,
            )
        self.status: int = status
        self.headers: Mapping[str, str] = headers

    @property
    def ended(self) -> bool:
        return bool(getattr(self._response, "ended", False))

    async def read(self) -> bytes:
        block = await _call_custom("read", self._response.read)
        if not isinstance(cast("object", block), bytes):
            raise HookFailed(
                f"transport: read returned {type(block).__name__}, not bytes", hint=HINT
            )
        return block

    def close(self) -> None:
        try:
            self._response.close()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - the caller still gets its response
            log.warning("transport: close failed: %s", describe(error))


async def _call_custom(name: str, method: Callable[[], Awaitable[_T]]) -> _T:
    code = UserCode()
    try:
        return await method()
    except FoundryError:
        raise
    except BaseException as error:
        if not code.is_own_failure(error):
            raise
        raise HookFailed(f"transport: {name} failed: {describe(error)}", hint=HINT) from error
