"""The caller's own transport: whatever it raises is an error of this package, and names it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from foundry_api.types.errors import FoundryError, HookFailed
from foundry_api.types.user_code import UserCode, describe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foundry_api.wire.transport import Request, Response, Transport

__all__ = ["CustomTransport"]

_T = TypeVar("_T")

log = logging.getLogger("foundry_api")

HINT = (
    "See the exception that it was raised from, and correct the transport: what it may raise, and "
    "is to return, is written in foundry_api.wire.transport.Transport."
)


class CustomTransport:
    """Sends requests with the transport that the caller gave to the client.

    Args:
        transport: The caller's.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def send(self, request: Request) -> Response:
        """Send a request and wait for the head of its answer. See `Transport.send`.

        Raises:
            HookFailed: The transport raised an exception that is none of this package's, or gave
                something else than a response.
        """
        response = await _call_custom("send", lambda: self._transport.send(request))
        return _CustomResponse(response)

    async def aclose(self) -> None:
        """Close every connection.

        Raises:
            HookFailed: The transport raised an exception that is none of this package's.
        """
        await _call_custom("aclose", self._transport.aclose)


class _CustomResponse:
    """A response of the caller's transport."""

    def __init__(self, response: Response) -> None:
        self._response = response
        status, headers = getattr(response, "status", None), getattr(response, "headers", None)
        if not isinstance(status, int) or not isinstance(headers, Mapping):
            raise HookFailed(
                f"transport.send gave {type(response).__name__} without status and headers, "
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
        if not _is_bytes(block):
            raise HookFailed(f"transport: read gave {type(block).__name__}, not bytes", hint=HINT)
        return block

    def close(self) -> None:
        try:
            self._response.close()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - it must not take the answer's place
            log.warning("transport: close failed: %s", describe(error))


def _is_bytes(block: object) -> bool:
    return isinstance(block, bytes)


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
