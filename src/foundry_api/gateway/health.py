"""`/healthz`, `/readyz` and `/metrics`: is the gateway alive, can it serve calls, and how many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.gateway.metrics import CONTENT_TYPE
from foundry_api.types.errors import CircuitOpen

if TYPE_CHECKING:
    from aiohttp import web

    from foundry_api.gateway.context import GatewayContext
    from foundry_api.gateway.exchange import Exchange

__all__ = ["get_health", "get_metrics", "get_readiness", "list_problems"]


async def get_health(exchange: Exchange) -> web.StreamResponse:
    """Answer while the event loop runs; touch nothing else."""
    return exchange.respond_json({"status": "ok"})


async def get_readiness(exchange: Exchange) -> web.StreamResponse:
    """Answer 200 if calls can be served, else 503. The reasons are at `/api/status`."""
    problems = list_problems(exchange.context)
    status = 503 if problems else 200
    return exchange.respond_json({"status": "unavailable" if problems else "ready"}, status=status)


async def get_metrics(exchange: Exchange) -> web.StreamResponse:
    """Return the metrics for Prometheus."""
    context = exchange.context
    text = context.metrics.format(
        context.admission.scheduler,
        draining=context.draining,
        breaker_state=context.client.breaker.state,
    )
    response = exchange.respond(text)
    response.headers["Content-Type"] = CONTENT_TYPE
    return response


def list_problems(context: GatewayContext) -> list[str]:
    """List why the gateway cannot serve calls, or not all of them."""
    problems: list[str] = []
    if context.draining:
        problems.append("the gateway is shutting down")
    if context.client.breaker.state == "open":
        problems.append(f"the model service fails ({CircuitOpen.__name__})")
    if context.keyring.problem:
        problems.append(context.keyring.problem)
    if context.saver.problem:
        problems.append(context.saver.problem)
    if context.audit.problem:
        problems.append(context.audit.problem)
    return problems
