"""`/api/session`: signing in to the page, and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foundry_api._version import __version__
from foundry_api.gateway.authentication import find_token, make_unauthorized
from foundry_api.gateway.keys.types import SCOPES
from foundry_api.gateway.sessions import LIFETIME_S, get_cookie_name

if TYPE_CHECKING:
    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.keys.types import ApiKey

__all__ = ["get_session", "sign_in", "sign_out"]


async def get_session(exchange: Exchange) -> web.StreamResponse:
    """Return whether the browser has signed in, and what its key may do."""
    context = exchange.context
    key = context.sessions.find_key(exchange.request)
    return exchange.respond_json(_describe(key, requires_key=context.keyring.requires_key))


async def sign_in(exchange: Exchange) -> web.StreamResponse:
    """Start a session with the key of the request; its cookie stands for the key."""
    request, context = exchange.request, exchange.context
    if exchange.key is not None:
        token = find_token(request)
        secret = None if token is None else context.sessions.create(token)
        if secret is None:  # it was sent with the cookie of another session, or ended just now
            raise make_unauthorized()
        _set_cookie(exchange, secret, LIFETIME_S)
    return exchange.respond_json(_describe(exchange.key, requires_key=context.keyring.requires_key))


async def sign_out(exchange: Exchange) -> web.StreamResponse:
    """End the session of the browser."""
    context = exchange.context
    context.sessions.end(exchange.request)
    _set_cookie(exchange, "", 0)
    return exchange.respond_json(_describe(None, requires_key=context.keyring.requires_key))


def _describe(key: ApiKey | None, *, requires_key: bool) -> dict[str, Any]:
    scopes = list(SCOPES)
    if requires_key:
        scopes = [] if key is None else sorted(key.scopes)
    return {
        "version": __version__,
        "requires_key": requires_key,
        "key": None if key is None else {"id": key.id, "name": key.name},
        "scopes": scopes,
    }


def _set_cookie(exchange: Exchange, value: str, lifetime_s: int) -> None:
    request = exchange.request
    # Behind a proxy with TLS only the origin of the page says so.
    is_encrypted = request.secure or request.headers.get("Origin", "").startswith("https://")
    exchange.headers["Set-Cookie"] = (
        f"{get_cookie_name(request)}={value}; Path=/; Max-Age={lifetime_s}; HttpOnly; "
        f"SameSite=Strict{'; Secure' if is_encrypted else ''}"
    )
