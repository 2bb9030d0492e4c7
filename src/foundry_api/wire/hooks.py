"""Request hooks, response hooks and credentials."""

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
"""Called with every request; returns the request to send in its place."""

ResponseHook = Callable[[Request, ResponseHead], Awaitable[None] | None]
"""Called with every request and the head of its response."""

Auth = RequestHook
"""Adds the credential to a request. Called for every request, and again after a 401 response."""

UNAUTHORIZED = 401

_KEY = re.compile(r"[\x21-\x7e]+")  # visible ASCII


class BearerKey:
    """Adds a bearer token from a callable, which may be a coroutine function.

    An ordinary function runs on the event loop, so it has to return at once.
    """

    def __init__(self, provider: Callable[[], str | Awaitable[str]]) -> None:
        self._provider = provider

    async def __call__(self, request: Request) -> Request:
        key = await _call_hook(self._provider)
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ConfigurationError(
                "the api_key callable returned no key: it must be a string without white space",
                hint="Return the key itself, without 'Bearer '.",
            )
        return request.with_headers({"Authorization": f"Bearer {key}"})


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of one client. Request hooks run in order."""

    auth: Auth | None = None
    requests: tuple[RequestHook, ...] = ()
    responses: tuple[ResponseHook, ...] = ()

    def wrap(
        self, transport: Transport, *, is_explicit: bool, headers: Mapping[str, str] | None = None
    ) -> Transport:
        """Return a transport that calls these hooks, or `transport` if there is nothing to do."""
        # A credential goes only to an address that the user named, never to one that was found.
        auth = self.auth if is_explicit else None
        if not (auth or headers or self.requests or self.responses):
            return transport
        return HookedTransport(transport, headers=headers, auth=auth, hooks=self)


class HookedTransport:
    """A transport that adds headers and a credential, and calls the hooks."""

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
        """Send a request and wait for the head of its response. See `Transport.send`."""
        if self._headers:
            request = request.with_headers({**self._headers, **request.headers})
        for hook in self._hooks.requests:
            request = await _apply_hook(hook, request)
        sent_at = self._monotonic()
        # The credential is added last, so that no hook sees it.
        if self._auth is None:
            response = await self._transport.send(request)
        else:
            response = await self._send_authenticated(self._auth, request)
        head = ResponseHead(response.status, response.headers, self._monotonic() - sent_at)
        try:
            for observer in self._hooks.responses:
                await _call_hook(observer, request, head)
        except BaseException:
            response.close()
            raise
        return response

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _send_authenticated(self, auth: Auth, request: Request) -> Response:
        signed = await _apply_hook(auth, request)
        response = await self._transport.send(signed)
        if response.status != UNAUTHORIZED:
            return response
        # The key may have been rotated since. The same key would be refused again.
        signed_again = await _apply_hook(auth, request)
        if signed_again == signed:
            return response
        response.close()
        return await self._transport.send(signed_again)


async def _apply_hook(hook: RequestHook, request: Request) -> Request:
    changed = await _call_hook(hook, request)
    if not isinstance(changed, Request):
        raise HookFailed(f"{_get_hook_name(hook)} returned {type(changed).__name__}, not a Request")
    if get_origin(changed.url) != get_origin(request.url):  # it would get the credential
        raise HookFailed(f"{_get_hook_name(hook)} would send the request to another host")
    if changed is request:
        return request
    headers = validate_headers(f"{_get_hook_name(hook)}: headers", changed.headers, HookFailed)
    return changed if headers == changed.headers else structs.replace(changed, headers=headers)


async def _call_hook(hook: Callable[..., object], *arguments: object) -> object:
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
