"""`GET /openapi.json` and `GET /docs`."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING, Any

from foundry_api.gateway.routing import Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.routing import Access

__all__ = ["ApiDescription"]


class ApiDescription:
    """Describes a route table and itself.

    Args:
        routes: The routes, without those of the description.

    Attributes:
        routes: All routes.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        # The description has no secrets, but only what is listed is open. Every key may read it.
        access: Access = "inference or manage or metrics"
        self.routes = (
            *routes,
            Route(
                "GET",
                "/openapi.json",
                self.get_openapi,
                access,
                "Describe this API as OpenAPI 3.1.",
            ),
            Route("GET", "/docs", self.get_docs, access, "Describe this API as a web page."),
        )

    async def get_openapi(self, exchange: Exchange) -> web.StreamResponse:
        """Return the description as JSON."""
        # It is made in 10 ms or so, at the first request.
        document = await asyncio.to_thread(lambda: self.document)
        return exchange.respond_json(document)

    async def get_docs(self, exchange: Exchange) -> web.StreamResponse:
        """Return the description as a web page."""
        from foundry_api.gateway.openapi.page import HEADERS, format_page  # noqa: PLC0415 - as below

        page = await asyncio.to_thread(lambda: format_page(self.document))
        exchange.headers |= HEADERS
        return exchange.respond(page.encode(), content_type="text/html; charset=utf-8")

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document."""
        # Most gateways are never asked for it.
        from foundry_api.gateway.openapi.document import make_document  # noqa: PLC0415
        from foundry_api.gateway.openapi.operations import OPERATIONS, describe_self  # noqa: PLC0415

        operations = {**OPERATIONS, **describe_self(self.get_openapi, self.get_docs)}
        return make_document(self.routes, operations)
