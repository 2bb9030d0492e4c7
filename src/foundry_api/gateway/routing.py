"""The route table: which handler serves a method and a path, and who may call it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote

from foundry_api.gateway.errors import RequestError, make_error_body

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange

__all__ = ["Access", "Handler", "Match", "Route", "Router"]

# What a route requires: a key with this scope or one of them, or nothing.
Access = Literal[
    "inference",
    "manage",
    "metrics",
    "inference or manage",
    "inference or manage or metrics",
    "manage or metrics",
    "open",
]

Handler = Callable[["Exchange"], Awaitable["web.StreamResponse"]]

MAX_ID_LENGTH = 256
# Only the ids of models may have a slash; all other paths end with the id, or with one more part.
_HAVE_SLASHES = ("models/", "deployments/")
# Routes of OpenAI that are not served, and look like an id of one that is.
_NOT_SERVED = frozenset({"/v1/responses/compact", "/openai/v1/responses/compact"})


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path, and what serves them.

    Attributes:
        method: The HTTP method.
        path: The path. Its last part may be `{id}`, which is the rest of the path, or `{id}` may
            be followed by one more part.
        handler: Serves a request.
        access: The scope that a key needs, or several of which it needs one; `open` needs no key.
        summary: One sentence for the documentation.
        encode_error: Encodes an error in the shape that clients of the route expect.
        action: What it does, for the audit log; empty if it is not recorded.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    summary: str = ""
    encode_error: Callable[[RequestError], bytes] = make_error_body
    action: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """A route that matches a request.

    Attributes:
        route: The route.
        id: The decoded `{id}` of the path; empty for a path without one.
    """

    route: Route
    id: str = ""


@dataclass(frozen=True, slots=True)
class _Resource:
    routes: dict[str, Route] = field(default_factory=dict[str, Route])


class Router:
    """Finds the route of a request.

    Attributes:
        routes: All routes.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, _Resource] = {}
        # By prefix and suffix around the id; longer suffixes first, so that `/cancel` is no id.
        self._patterns: dict[tuple[str, str], _Resource] = {}
        for route in self.routes:
            prefix, placeholder, suffix = route.path.partition("{id}")
            resource = (
                self._patterns.setdefault((prefix, suffix), _Resource())
                if placeholder
                else self._exact.setdefault(prefix, _Resource())
            )
            resource.routes[route.method] = route
        self._ordered = sorted(self._patterns.items(), key=lambda item: -len(item[0][1]))

    def find(self, method: str, raw_path: str) -> Match:
        """Return the route of a request.

        Args:
            method: The method.
            raw_path: The path as it was sent, without the query. An id in it is percent-decoded
                once; other parts are compared as sent.

        Raises:
            RequestError: 404 without such a path, 405 without such a method.
        """
        resource, identifier = self._exact.get(raw_path), ""
        if resource is None:
            resource, identifier = self._find_pattern(raw_path)
        if resource is None:
            raise RequestError(
                404,
                "unknown_url",
                f"There is no route {method} {clip_path(raw_path)}; GET /docs lists them.",
            )
        route = resource.routes.get("GET" if method == "HEAD" else method)
        if route is None:
            allowed = ", ".join(
                sorted({*resource.routes, *(["HEAD"] * ("GET" in resource.routes))})
            )
            raise RequestError(
                405,
                "method_not_allowed",
                f"{clip_path(raw_path)} allows {allowed}, not {method}.",
                headers={"Allow": allowed},
            )
        return Match(route, identifier)

    def _find_pattern(self, raw_path: str) -> tuple[_Resource | None, str]:
        if raw_path in _NOT_SERVED:
            return None, ""
        for (prefix, suffix), resource in self._ordered:
            if raw_path.startswith(prefix) and raw_path.endswith(suffix):
                raw_id = raw_path[len(prefix) : len(raw_path) - len(suffix)]
                if "/" in raw_id and not prefix.endswith(_HAVE_SLASHES):
                    continue
                if raw_id and len(raw_id) <= MAX_ID_LENGTH:
                    return resource, unquote(raw_id, errors="replace")
        return None, ""


def clip_path(path: str) -> str:
    """Return a path for a message; a long one is cut."""
    return path if len(path) <= MAX_ID_LENGTH else f"{path[:MAX_ID_LENGTH]}…"
