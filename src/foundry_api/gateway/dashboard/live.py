"""The events that keep open pages up to date: one a second, made once for all of them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.gateway.authentication import find_token
from foundry_api.gateway.checks import make_invalid
from foundry_api.gateway.errors import make_error_event
from foundry_api.gateway.health import describe_engine
from foundry_api.gateway.history import WINDOWS, Gauges
from foundry_api.gateway.management import describe_calls, describe_status
from foundry_api.gateway.streaming import send_events

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from aiohttp import web

    from foundry_api.gateway.context import GatewayContext
    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.history import Point
    from foundry_api.gateway.keys.types import ApiKey

__all__ = ["LiveFeed", "get_history", "stream_live"]

INTERVAL_S = 1.0
# Reading the memory of the engine takes longer than all the rest, so it is not read each time.
TICKS_PER_ENGINE_READING = 5
# Members of an event that the scope `metrics` may see.
METRICS_MEMBERS = ("in_flight", "waiting", "slots", "engine", "points")


class _Snapshot:
    """The state of the gateway at one moment. It is described when the first page needs it."""

    def __init__(self, context: GatewayContext, facts: dict[str, Any]) -> None:
        self._context = context
        self._facts = facts
        self._members: dict[str, Any] = {}
        self._events: dict[str, bytes] = {}

    def encode(self, key: ApiKey | None) -> bytes:
        """Encode what a key may see as an event; once for all pages that may see the same."""
        view = "" if key is None or "manage" in key.scopes else key.id
        event = self._events.get(view)
        if event is None:
            members = self._describe()
            if view and key is not None:
                members = {**_restrict(members, key), **describe_calls(self._context, key)}
            event = self._events[view] = b"data: %b\n\n" % msgspec.json.encode(members)
        return event

    def _describe(self) -> dict[str, Any]:
        if not self._members:
            context = self._context
            self._members = {
                **self._facts,
                **describe_status(context),
                **describe_calls(context),
                "slots": context.admission.scheduler.slots,
                "breaker": context.upstreams.breaker_state,
                "downloads": context.model_events.downloads,
                # A page reads a list again when its number has changed.
                "revisions": {
                    "models": context.model_events.revision,
                    "keys": context.keyring.revision,
                    "log": context.audit.recorded,
                    "failures": context.metrics.failures.count,
                },
            }
        return self._members


class LiveFeed:
    """Describes the gateway once a second; see `LiveSource`.

    Args:
        context: The parts of the gateway.
        sleep: Waits between two descriptions.
    """

    def __init__(
        self,
        context: GatewayContext,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._context = context
        self._sleep = sleep
        self._tick = 0
        self._engine: dict[str, Any] | None = None
        self._next: asyncio.Future[_Snapshot | None] | None = None
        self._is_closed = False

    async def run(self) -> None:
        """Add to the history, and publish, until cancelled."""
        context = self._context
        last_at = context.monotonic()
        while True:
            if self._tick % TICKS_PER_ENGINE_READING == 0:
                self._engine = await describe_engine(context)
            await self._sleep(INTERVAL_S)
            now = context.monotonic()
            points = self._add_to_history(now - last_at)
            last_at = now
            self._tick += 1
            self._publish(self._take_snapshot(points))

    async def subscribe(self) -> AsyncGenerator[_Snapshot]:
        """Yield the state now, and then each second; who is slow misses some."""
        if self._is_closed:
            return
        yield self._take_snapshot({})
        while not self._is_closed:
            if self._next is None:
                self._next = asyncio.get_running_loop().create_future()
            # Others wait for the same future.
            snapshot = await asyncio.shield(self._next)
            if snapshot is not None:
                yield snapshot

    def close(self) -> None:
        """End all subscriptions: the gateway shuts down."""
        self._is_closed = True
        self._publish(None)

    def _publish(self, snapshot: _Snapshot | None) -> None:
        waiting, self._next = self._next, None
        if waiting is not None:
            waiting.set_result(snapshot)

    def _take_snapshot(self, points: dict[str, Point]) -> _Snapshot:
        return _Snapshot(
            self._context,
            {
                "tick": self._tick,
                "time": self._context.wall_clock(),
                "engine": self._engine,
                "points": points,
            },
        )

    def _add_to_history(self, elapsed_s: float) -> dict[str, Point]:
        context = self._context
        running = sum(one.ticket.output_tokens for one in context.running if one.ticket is not None)
        scheduler, memory = context.admission.scheduler, None
        if self._engine is not None:
            memory = self._engine["memory_bytes"]
        gauges = Gauges(
            tokens=context.metrics.generated_tokens + running,
            running=scheduler.active,
            waiting=scheduler.waiting,
            memory_bytes=memory,
        )
        return context.metrics.history.advance(elapsed_s, context.wall_clock(), gauges)


async def stream_live(exchange: Exchange) -> web.StreamResponse:
    """Stream the state of the gateway, as far as the key may see it."""
    return await send_events(exchange, _encode_snapshots(exchange), make_error_event)


async def get_history(exchange: Exchange) -> web.StreamResponse:
    """Return the points of the window in `?window=`."""
    name = exchange.request.query.get("window", "15m")
    if name not in WINDOWS:
        raise make_invalid("window", f"window is none of {', '.join(WINDOWS)}.")
    points = exchange.context.metrics.history.get_points()[name]
    return exchange.respond_json({"window": name, "step_s": WINDOWS[name][0], "points": points})


async def _encode_snapshots(exchange: Exchange) -> AsyncGenerator[bytes]:
    async with aclosing(exchange.context.live.subscribe()) as snapshots:
        async for snapshot in snapshots:
            if not _may_go_on(exchange):
                return
            yield snapshot.encode(exchange.key)


def _may_go_on(exchange: Exchange) -> bool:
    """Whether the caller may still read the same: it has not signed out, its key is unchanged."""
    context = exchange.context
    if exchange.key is None:
        return not context.keyring.requires_key
    token = find_token(exchange.request)
    if token is None:
        return context.sessions.find_key(exchange.request) == exchange.key
    return context.keyring.find(token) == exchange.key


def _restrict(members: dict[str, Any], key: ApiKey) -> dict[str, Any]:
    """Return what a key without the scope `manage` may see, besides its own calls."""
    shown = ["tick", "time", "version", "ready"]
    if "metrics" in key.scopes:
        shown += METRICS_MEMBERS
    queues = [queue for queue in members["keys"] if queue["key"] == key.name]
    return {**{name: members[name] for name in shown}, "keys": queues}
