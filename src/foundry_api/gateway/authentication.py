"""Finds the key of a request or of its session, and refuses who keeps trying wrong keys."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, get_args

from foundry_api.gateway.client_address import get_client_network
from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.guard import SAFE_METHODS
from foundry_api.gateway.routing import Access
from foundry_api.gateway.sessions import get_cookie_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from foundry_api.gateway.audit import AuditLog
    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.guard import RequestGuard
    from foundry_api.gateway.keys.keyring import Keyring
    from foundry_api.gateway.keys.types import ApiKey
    from foundry_api.gateway.sessions import Sessions

__all__ = ["Authenticator", "find_token", "make_unauthorized"]

MAX_FAILURES = 20
FAILURE_WINDOW_S = 60.0
# The scopes of which a key needs one.
_SCOPES = {access: access.split(" or ") for access in get_args(Access)}
# Addresses whose failures are remembered; the oldest are forgotten.
MAX_ADDRESSES = 4096


class Authenticator:
    """Authenticates requests.

    Args:
        keyring: The keys. While there has never been one, every request is allowed: the gateway
            serves only its own machine then.
        sessions: The sessions of browsers.
        guard: Knows which pages are ours.
        audit: Records failures.
        monotonic: A clock.
    """

    def __init__(
        self,
        keyring: Keyring,
        sessions: Sessions,
        guard: RequestGuard,
        audit: AuditLog,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keyring = keyring
        self._sessions = sessions
        self._guard = guard
        self._audit = audit
        self._monotonic = monotonic
        # By address: the start of the window, and the failures in it.
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def authenticate(self, exchange: Exchange, scope: Access) -> ApiKey | None:
        """Return the key of an exchange; None if the gateway serves without keys.

        Raises:
            RequestError: 401 without a valid key, 429 without one after too many failures, 403 if
                it lacks the scope or another page uses a session.
        """
        if not self._keyring.requires_key:
            return None
        request = exchange.request
        token = find_token(request)
        key = self._find_session_key(exchange) if token is None else self._keyring.find(token)
        # A valid key is served always: else anybody could lock out all who share an address, such
        # as that of a proxy. Nobody guesses a key, with or without a limit.
        if key is None:
            address = get_client_network(request.remote or "")
            self._check_failures(address)
            self._record_failure(exchange, "invalid_api_key")
            if self._add_failure(address) == MAX_FAILURES:
                # Once, not for each request that is refused now.
                self._record_failure(exchange, "too_many_failures")
            raise make_unauthorized()
        if key.scopes.isdisjoint(_SCOPES[scope]):
            self._record_failure(exchange, "insufficient_scope", key)
            raise RequestError(
                403,
                "insufficient_scope",
                f"This key lacks the scope {scope}. Use a key that has it.",
            )
        return key

    def _find_session_key(self, exchange: Exchange) -> ApiKey | None:
        request = exchange.request
        key = self._sessions.find_key(request)
        if key is None and get_cookie_name(request) in request.cookies:
            # An open page goes on asking when its session has ended. That must not lock its address
            # out, and helps nobody to guess: a session has a secret of 256 bits.
            self._record_failure(exchange, "session_ended")
            raise make_unauthorized()
        # Browsers send cookies by themselves, whichever page makes the request.
        if (
            key is not None
            and request.method not in SAFE_METHODS
            and not self._guard.is_own_page(request)
        ):
            self._record_failure(exchange, "origin_not_allowed", key)
            raise RequestError(
                403, "origin_not_allowed", "Only the gateway's own page may use its session."
            )
        return key

    def _check_failures(self, address: str) -> None:
        started_at, count = self._failures.get(address, (0.0, 0))
        if count < MAX_FAILURES:
            return
        remaining_s = started_at + FAILURE_WINDOW_S - self._monotonic()
        if remaining_s <= 0:
            del self._failures[address]
            return
        raise RequestError(
            429,
            "too_many_failures",
            "Too many requests with an invalid key arrived from this address. Wait for "
            f"{math.ceil(remaining_s)} s, then send a valid one.",
            retry_after_s=remaining_s,
        )

    def _record_failure(self, exchange: Exchange, result: str, key: ApiKey | None = None) -> None:
        self._audit.record_failure(
            result,
            key=key,
            address=exchange.request.remote,
            request_id=exchange.id,
            target=f"{exchange.request.method} {exchange.route}",
        )

    def _add_failure(self, address: str) -> int:
        """Count a failure of an address, and return how many there are."""
        now = self._monotonic()
        started_at, count = self._failures.pop(address, (now, 0))
        if now - started_at > FAILURE_WINDOW_S:
            started_at, count = now, 0
        self._failures[address] = (started_at, count + 1)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        return count + 1


def find_token(request: web.BaseRequest) -> str | None:
    """Return the token of a request; None without one, and an empty text for different ones."""
    headers = request.headers
    values = [*headers.getall("x-api-key", ()), *headers.getall("api-key", ())]
    for value in headers.getall("Authorization", ()):
        scheme, _, token = value.partition(" ")
        values.append(token if scheme.lower() == "bearer" else "")
    if len(values) > 1 and len({value.strip() for value in values}) > 1:
        return ""
    return values[0].strip() if values else None


def make_unauthorized() -> RequestError:
    """Return the error for a request without a valid key."""
    # The same text for every cause: it must not help to guess.
    return RequestError(
        401,
        "invalid_api_key",
        "A valid API key is required. Send it as `Authorization: Bearer KEY`.",
        headers={"WWW-Authenticate": "Bearer"},
    )
