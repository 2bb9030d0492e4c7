"""`/healthz`, `/readyz`, `/status` and `/metrics`: the state of the gateway."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from foundry_api._version import __version__
from foundry_api.gateway.metrics import CONTENT_TYPE
from foundry_api.types.errors import CircuitOpen
from foundry_api.wire.dialects.base import ServiceStatus

if TYPE_CHECKING:
    from aiohttp import web

    from foundry_api.gateway.context import GatewayContext
    from foundry_api.gateway.exchange import Exchange

__all__ = [
    "describe_engine",
    "get_health",
    "get_metrics",
    "get_readiness",
    "get_service_status",
    "list_problems",
]


async def get_health(exchange: Exchange) -> web.StreamResponse:
    """Answer while the event loop runs; touch nothing else."""
    return exchange.respond_json({"status": "ok"})


async def get_readiness(exchange: Exchange) -> web.StreamResponse:
    """Answer 200 if calls can be served, else 503. The reasons are at `/api/status`."""
    problems = list_problems(exchange.context)
    status = 503 if problems else 200
    return exchange.respond_json({"status": "unavailable" if problems else "ready"}, status=status)


async def get_service_status(exchange: Exchange) -> web.StreamResponse:
    """Return what a client of this package needs to know; nothing is asked of the engine."""
    context = exchange.context
    return exchange.respond_json(
        {
            "object": "gateway",
            "version": __version__,
            "ready": not list_problems(context),
            "engine": await describe_engine(context),
        }
    )


async def get_metrics(exchange: Exchange) -> web.StreamResponse:
    """Return the metrics for Prometheus."""
    context = exchange.context
    text = context.metrics.format(
        context.admission.scheduler,
        draining=context.draining,
        breaker_state=context.upstreams.breaker_state,
        upstreams=context.upstreams,
    )
    return exchange.respond(text, content_type=CONTENT_TYPE)


def list_problems(context: GatewayContext) -> list[str]:
    """List why the gateway cannot serve calls, or not all of them."""
    problems: list[str] = []
    if context.draining:
        problems.append("the gateway is shutting down")
    problems += context.upstreams.list_problems()
    is_single = not context.upstreams.are_named
    if is_single and context.warm_up is not None and context.warm_up.problem:
        problems.append(context.warm_up.problem)
    # Ready again once a probe is due: only a call probes, and a load balancer would send none.
    if (
        is_single
        and (breaker := context.client.breaker).state == "open"
        and not breaker.is_probe_due
    ):
        problems.append(f"the model service fails ({CircuitOpen.__name__})")
    if context.keyring.problem:
        problems.append(context.keyring.problem)
    if context.saver.problem:
        problems.append(context.saver.problem)
    if context.audit.problem:
        problems.append(context.audit.problem)
    return problems


async def describe_engine(context: GatewayContext) -> dict[str, Any] | None:
    """Describe the engine behind the gateway; None before it was first called.

    Several services have no common version or memory.
    """
    if context.upstreams.are_named:
        return None
    # psutil, which is not needed to start.
    from foundry_api.monitor.health import get_local_pid, get_version  # noqa: PLC0415
    from foundry_api.monitor.process import ProcessProbe  # noqa: PLC0415

    connection = context.client.services[0].connection
    if connection is None:
        return None
    endpoint, process = connection.endpoint, None
    status = ServiceStatus(endpoint.service_generation, pid=endpoint.pid)
    if (pid := get_local_pid(connection, status)) is not None:
        process = await asyncio.to_thread(ProcessProbe().read, pid)
    return {
        "service_generation": endpoint.service_generation,
        "version": get_version(connection, status),
        "memory_bytes": process.memory_bytes if process else None,
        "uptime_s": time.time() - process.started_at if process else None,
    }
