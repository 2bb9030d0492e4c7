"""Checks of a request's head that protect every route: host, origin and encoding."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from aiohttp import web

from foundry_api.gateway.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SAFE_METHODS", "WILDCARDS", "RequestGuard", "UnknownVersionRequest", "is_loopback"]

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)*)\.?(?::(\d{1,5}))?")

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARDS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared, not bound
MAX_NAME_CHARS = 255  # of DNS
KNOWN_HOSTS = 16
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class UnknownVersionRequest(web.BaseRequest):
    """A request of a version of HTTP that the gateway does not speak."""


class RequestGuard:
    """Refuses requests that a browser was tricked into, and ambiguous ones.

    A web page can make a browser send requests to this machine (DNS rebinding, cross-site
    requests), so a request must name a host that this gateway serves, and an origin that is
    allowed.

    Args:
        host: The address that the gateway listens on.
        hosts: Further names under which clients reach the gateway.
        origins: Origins of web pages that may call the gateway, such as https://app.example.
    """

    def __init__(self, host: str, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self._names = {name.casefold() for name in hosts}
        # On all addresses, every IP literal of this machine is a name of the gateway. A page
        # cannot rebind an IP literal, only a DNS name.
        self._any_address = host in WILDCARDS
        self._names |= LOOPBACK_NAMES if self._any_address or is_loopback(host) else {host}
        self._origins = frozenset(origins)
        # Nearly all requests have the same few.
        self._is_known = lru_cache(maxsize=KNOWN_HOSTS)(self._look_up)

    def check(self, request: web.BaseRequest) -> None:
        """Check the head of a request.

        Raises:
            RequestError: The request is not allowed.
        """
        headers = request.headers
        if isinstance(request, UnknownVersionRequest):
            raise RequestError(400, "invalid_http", "The gateway speaks HTTP/1.0 and HTTP/1.1.")
        if not request.raw_path.startswith("/"):
            raise RequestError(400, "invalid_target", "The request target must be a path.")
        hosts = headers.getall("Host", ())
        host = hosts[0] if len(hosts) == 1 else ""
        if not self._is_known(host):
            is_name = len(host) <= MAX_NAME_CHARS and _HOST.fullmatch(host)
            named = f"names {host}, not this gateway" if is_name else "is not valid"
            raise RequestError(
                400,
                "invalid_host",
                f"The Host header {named}. Allow further names with `hosts` in its configuration.",
            )
        encodings = headers.getall("Content-Encoding", ())
        if encodings and any(
            encoding.strip().lower() not in {"", "identity"} for encoding in encodings
        ):
            raise RequestError(
                415,
                "unsupported_encoding",
                "Compressed requests are not accepted. Send the body without Content-Encoding.",
            )
        self._check_origin(request)

    def get_allowed_origin(self, request: web.BaseRequest) -> str | None:
        """Return the origin of a request if it is one of those that were allowed by name."""
        origin = request.headers.get("Origin")
        return origin if origin in self._origins else None

    def is_own_page(self, request: web.BaseRequest) -> bool:
        """Whether a request comes from a page of this gateway, by the origin that it names.

        Behind a proxy with TLS the gateway sees HTTP, so there its address must be in `origins`.
        """
        origin, host = request.headers.get("Origin", ""), request.headers["Host"]
        return origin.casefold() == f"{request.scheme}://{host}".casefold() or (
            origin in self._origins and origin.partition("://")[2].casefold() == host.casefold()
        )

    def _check_origin(self, request: web.BaseRequest) -> None:
        headers = request.headers
        origin = headers.get("Origin")
        if origin is not None:
            if origin not in self._origins and not self.is_own_page(request):
                raise RequestError(
                    403,
                    "origin_not_allowed",
                    "Pages of this origin may not call the gateway. Allow it with `origins` in "
                    "its configuration.",
                )
        elif headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            # A link from another site to a page of ours is harmless; anything else is not.
            is_navigation = headers.get("Sec-Fetch-Mode") == "navigate"
            if not (is_navigation and request.method in SAFE_METHODS):
                raise RequestError(
                    403, "origin_not_allowed", "Cross-site requests are not allowed."
                )

    def _look_up(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").casefold()
        return name in self._names or (self._any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
