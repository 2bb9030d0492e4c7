"""Sessions of browsers that signed in with a key. They are in memory, so a restart ends them."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from foundry_api.gateway.keys.keyring import Keyring
    from foundry_api.gateway.keys.types import ApiKey

__all__ = ["LIFETIME_S", "Sessions", "get_cookie_name"]

LIFETIME_S = 12 * 3600
# The oldest one ends when there are more. The first limit keeps one key from ending all others.
MAX_SESSIONS_OF_KEY = 20
MAX_SESSIONS = 2000
COOKIE_NAME = "foundry-session"


@dataclass(frozen=True, slots=True)
class _Session:
    key_id: str
    token_digest: bytes
    ends_at: float


class Sessions:
    """The sessions of a gateway.

    A session has the rights of the token that it was created with, and ends with it: when the key
    expires, is revoked or removed, or when a rotation ends the token.

    Args:
        keyring: The keys.
        monotonic: A clock.
    """

    def __init__(
        self, keyring: Keyring, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._keyring = keyring
        self._monotonic = monotonic
        # By the digest of their secret, the oldest first. The time of a look-up by digest says
        # nothing about the secrets that there are.
        self._sessions: dict[bytes, _Session] = {}

    def create(self, token: str) -> str | None:
        """Start a session with a token, and return its secret; None if the token is not valid."""
        key, digest = self._keyring.find(token), self._keyring.compute_digest(token)
        if key is None or digest is None:
            return None
        of_key = [name for name, one in self._sessions.items() if one.key_id == key.id]
        if len(of_key) >= MAX_SESSIONS_OF_KEY:
            del self._sessions[of_key[0]]
        elif len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        secret = secrets.token_urlsafe(32)
        self._sessions[_compute_digest(secret)] = _Session(
            key.id, digest, self._monotonic() + LIFETIME_S
        )
        return secret

    def find_key(self, request: web.BaseRequest) -> ApiKey | None:
        """Return the key of the session that the cookie of a request names; None without one."""
        secret = request.cookies.get(get_cookie_name(request))
        if secret is None:
            return None
        digest = _compute_digest(secret)
        session = self._sessions.get(digest)
        if session is None:
            return None
        key = self._keyring.find_by_digest(session.token_digest)
        if key is None or self._monotonic() >= session.ends_at:
            del self._sessions[digest]
            return None
        return key

    def end(self, request: web.BaseRequest) -> None:
        """End the session that the cookie of a request names, if there is one."""
        secret = request.cookies.get(get_cookie_name(request))
        if secret is not None:
            self._sessions.pop(_compute_digest(secret), None)

    def __len__(self) -> int:
        return len(self._sessions)


def get_cookie_name(request: web.BaseRequest) -> str:
    """Return the name of the cookie: browsers share cookies among all ports of a host."""
    port = request.headers.get("Host", "").rpartition(":")[2]
    return f"{COOKIE_NAME}-{port}" if port.isdecimal() else COOKIE_NAME


def _compute_digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
