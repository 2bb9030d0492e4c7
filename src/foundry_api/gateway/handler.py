"""Serves every request: checks its head, finds its route, authenticates, and answers failures."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from foundry_api.gateway.errors import RequestError, format_defect, translate_error
from foundry_api.gateway.exchange import Exchange
from foundry_api.gateway.idempotency import IDEMPOTENCY_KEY, respond_once_to_json
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from aiohttp import web

    from foundry_api.gateway.authentication import Authenticator
    from foundry_api.gateway.context import GatewayContext
    from foundry_api.gateway.guard import RequestGuard
    from foundry_api.gateway.response import Response
    from foundry_api.gateway.routing import Router

__all__ = ["GatewayHandler"]

log = logging.getLogger("foundry_api.gateway")


class GatewayHandler:
    """The handler of all requests of a server."""

    def __init__(
        self,
        context: GatewayContext,
        router: Router,
        guard: RequestGuard,
        authenticator: Authenticator,
    ) -> None:
        self._context = context
        self._router = router
        self._guard = guard
        self._authenticator = authenticator

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve a request; only a client that left ends it with an exception."""
        exchange = Exchange(self._context, request)
        running = self._context.running
        running.add(exchange)
        try:
            return await self._serve(exchange)
        except RequestError as error:
            exchange.outcome = error.code or "error"
            return self._respond_error(exchange, error)
        except FoundryError as error:
            error.with_context(model=exchange.model or exchange.path_id or None)
            refusal = translate_error(error)
            exchange.outcome = refusal.code or "error"
            return self._respond_error(exchange, refusal)
        except asyncio.CancelledError:
            if exchange.abort_error is None:
                exchange.outcome = "client_closed"
                raise
            return self._respond_error(exchange, exchange.take_abort_error())
        except ConnectionError:
            # The client left while something was written to it.
            exchange.outcome = "client_closed"
            raise asyncio.CancelledError from None
        except Exception as error:  # noqa: BLE001 - a defect must not end the server
            log.error("request %s failed: %s", exchange.id, format_defect(error))  # noqa: TRY400
            exchange.outcome = "internal_error"
            return self._respond_error(
                exchange,
                RequestError(
                    500,
                    "internal_error",
                    f"The gateway failed; its log has the details under {exchange.id}.",
                ),
            )
        finally:
            running.discard(exchange)
            self._context.metrics.record(exchange, self._context.monotonic())
            if exchange.action:
                self._record_action(exchange)
            exchange.close()

    def _respond_error(self, exchange: Exchange, error: RequestError) -> Response:
        """Return an error response; end the connection if another response has begun."""
        if exchange.request.writer.output_size:
            # Its reader would take the error for the rest of the content.
            raise asyncio.CancelledError  # which closes the connection
        return exchange.respond_error(error)

    def _record_action(self, exchange: Exchange) -> None:
        self._context.audit.record(
            exchange.action,
            exchange.outcome,
            key=exchange.key,
            address=exchange.request.remote,
            request_id=exchange.id,
            target=exchange.target or exchange.path_id or exchange.model,
        )

    async def _serve(self, exchange: Exchange) -> web.StreamResponse:
        request = exchange.request
        self._guard.check(request)
        origin = self._guard.get_allowed_origin(request)
        if origin is not None:
            exchange.headers |= {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
            if request.method == "OPTIONS":
                exchange.headers |= {
                    "Access-Control-Allow-Methods": "GET, POST, DELETE",
                    "Access-Control-Allow-Headers": request.headers.get(
                        "Access-Control-Request-Headers", "*"
                    ),
                    "Access-Control-Max-Age": "600",
                }
                return exchange.respond(b"", status=204)
        match = self._router.find(request.method, request.raw_path.partition("?")[0])
        route = match.route
        exchange.route, exchange.path_id = route.path, match.id
        exchange.encode_error = route.encode_error
        if route.access != "open":
            exchange.key = self._authenticator.authenticate(exchange, route.access)
            exchange.action = route.action  # of a caller who may do it
            if self._context.draining:
                raise RequestError(
                    503, "shutting_down", "The gateway is shutting down.", retry_after_s=1.0
                )
        if exchange.key is not None and exchange.key.models is not None:
            await self._context.model_names.load()
        is_call = route.method == "POST" and route.access == "inference"
        if is_call and IDEMPOTENCY_KEY in request.headers:
            return await respond_once_to_json(exchange, route.handler)
        return await route.handler(exchange)
