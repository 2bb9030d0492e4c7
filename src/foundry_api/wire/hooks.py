"""What callers put between this package and the network: credentials and hooks."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import structs

from foundry_api.types.errors import ConfigurationError, FoundryError, HookFailed
from foundry_api.types.user_code import UserCode, describe
from foundry_api.wire.headers import validate_headers
from foundry_api.wire.transport import Request, ResponseHead, get_origin

if TYPE_CHECKING:
    from foundry_api.wire.transport import Response, Transport

__all__ = ["Auth", "BearerKey", "HookedTransport", "Hooks", "RequestHook", "ResponseHook"]

RequestHook = Callable[[Request], Request | Awaitable[Request]]
"""Called with every request; gives the one to send instead."""

ResponseHook = Callable[[Request, ResponseHead], Awaitable[None] | None]
"""Called with every request and the head of its answer."""

Auth = RequestHook
"""Puts the credential on a request; called anew for each, and once more when it was refused."""

UNAUTHORIZED = 401

_KEY = re.compile(r"[\x21-\x7e]+")


class BearerKey:
    """Puts a key that may change on requests.

    Args:
        provider: Gives the key that is good now. It may be a coroutine function; one that is not
            should answer at once, as the event loop waits for it.
    """

    def __init__(self, provider: Callable[[], str | Awaitable[str]]) -> None:
        self._provider = provider

    async def __call__(self, request: Request) -> Request:
        """The request with the key.

        Raises:
            ConfigurationError: The provider gives what cannot be sent as a key.
        """
        key = await _call_hook(self._provider)
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ConfigurationError(
                "the api_key callable gave no key: a text without white space is wanted",
                hint="Return the key itself, without 'Bearer '.",
            )
        return request.with_headers({"Authorization": f"Bearer {key}"})


@dataclass(frozen=True, slots=True)
class Hooks:
    """The callables that a caller gave.

    Attributes:
        auth: Puts the credential on requests to an address that the caller named.
        requests: Called with every request, one after another.
        responses: Called with every answer's head.
    """

    auth: Auth | None = None
    requests: tuple[RequestHook, ...] = ()
    responses: tuple[ResponseHook, ...] = ()

    def wrap(
        self, transport: Transport, *, is_explicit: bool, headers: Mapping[str, str] | None = None
    ) -> Transport:
        """A transport that calls them.

        Args:
            transport: Sends the requests.
            is_explicit: Whether the caller named the address: the credential is meant for it.
            headers: Added to every request.
        """
        auth = self.auth if is_explicit else None
        if not (auth or headers or self.requests or self.responses):
            return transport
        return HookedTransport(transport, headers=headers, auth=auth, hooks=self)


class HookedTransport:
    """A transport whose requests pass the caller's hooks, and carry the caller's credential.

    Args:
        transport: Sends the requests.
        headers: Added to every request that does not have them.
        auth: Puts the credential on; comes last, so that no hook sees it. A refused request
            is sent once more if another credential is to be had by then.
        hooks: Called with every request, and with every answer's head.
        clock: Seconds of a monotonic clock.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        headers: Mapping[str, str] | None = None,
        auth: Auth | None = None,
        hooks: Hooks | None = None,
        monotonic: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._transport = transport
        self._headers = dict(headers or {})
        self._auth = auth
        self._hooks = hooks or Hooks()
        self._monotonic = monotonic

    async def send(self, request: Request) -> Response:
        """Send a request and wait for the head of its answer. See `Transport.send`.

        Raises:
            HookFailed: A hook failed, or gave something else than a request.
        """
        if self._headers:
            request = request.with_headers({**self._headers, **request.headers})
        for hook in self._hooks.requests:
            request = await _apply_hook(hook, request)
        sent_at = self._monotonic()
        response = await self._send_authenticated(request)
        head = ResponseHead(response.status, response.headers, self._monotonic() - sent_at)
        try:
            for observer in self._hooks.responses:
                await _call_hook(observer, request, head)
        except BaseException:
            response.close()
            raise
        return response

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def _send_authenticated(self, request: Request) -> Response:
        if self._auth is None:
            return await self._transport.send(request)
        signed = await _apply_hook(self._auth, request)
        response = await self._transport.send(signed)
        if response.status != UNAUTHORIZED:
            return response
        signed_again = await _apply_hook(self._auth, request)
        if signed_again == signed:
            return response
        response.close()
        return await self._transport.send(signed_again)


async def _apply_hook(hook: RequestHook, request: Request) -> Request:
    changed = await _call_hook(hook, request)
    if not isinstance(changed, Request):
        raise HookFailed(f"{_get_hook_name(hook)} gave {type(changed).__name__}, not a Request")
    if get_origin(changed.url) != get_origin(request.url):
        raise HookFailed(f"{_get_hook_name(hook)} would send the request to another host")
    if changed is request:
        return request
    headers = validate_headers(f"{_get_hook_name(hook)}: headers", changed.headers, HookFailed)
    return changed if headers == changed.headers else structs.replace(changed, headers=headers)


async def _call_hook(hook: Callable[..., object], *arguments: object) -> object:
    """What a hook gives, at once or later."""
    code = UserCode()
    try:
        result = hook(*arguments)
        return await result if inspect.isawaitable(result) else result
    except FoundryError:
        raise
    except BaseException as error:
        if not code.is_own_failure(error):
            raise
        raise HookFailed(f"{_get_hook_name(hook)} failed: {describe(error)}") from error


def _get_hook_name(hook: object) -> str:
    return getattr(hook, "__qualname__", None) or type(hook).__name__
