"""Whoever wants to hear that the state of a service changed."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from inspect import isawaitable
from typing import TYPE_CHECKING

from foundry_api.user_code import UserCode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foundry_api.monitor.sample import HealthChanged

    Listener = Callable[[HealthChanged], object]

__all__ = ["Listeners"]

log = logging.getLogger("foundry_api")

GRACE_S = 5.0
"""For the alerts that are under way when a monitor ends."""


class Listeners:
    """Whoever wants to hear of changes. None of them can delay or end the monitor.

    A function is called at once; what it gives back, if that can be awaited, goes on beside the
    monitor, one change after the other.
    """

    def __init__(self, *listeners: Listener) -> None:
        self._listeners: dict[object, Listener] = {}
        self._last: dict[object, asyncio.Task[None]] = {}
        for listener in listeners:
            self.add(listener)

    def add(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` of every change from now on. The returned function ends that."""
        key = object()
        self._listeners[key] = listener

        def remove() -> None:
            self._listeners.pop(key, None)

        return remove

    def tell(self, change: HealthChanged) -> None:
        """Tell everybody."""
        for key, listener in list(self._listeners.items()):
            try:
                going_on = listener(change)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                log.exception("a listener failed on %s -> %s", change.old, change.new)
                continue
            if isawaitable(going_on):
                self._await(key, going_on)

    async def aclose(self) -> None:
        """Wait for what is under way, a moment long."""
        tasks = set(self._last.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=GRACE_S)
        for task in late:
            task.cancel()
        if late:
            log.warning("%d alerts were given up, because the monitor ended", len(late))
            await asyncio.wait(late)

    def _await(self, key: object, going_on: Awaitable[object]) -> None:
        before = self._last.get(key)
        task = asyncio.create_task(_after(before, going_on), context=contextvars.Context())
        self._last[key] = task
        task.add_done_callback(lambda done: self._over(key, done))

    def _over(self, key: object, done: asyncio.Task[None]) -> None:
        if self._last.get(key) is done:
            del self._last[key]


async def _after(before: asyncio.Task[None] | None, going_on: Awaitable[object]) -> None:
    if before is not None:
        await asyncio.wait({before})
    code = UserCode()
    try:
        await going_on
    except BaseException as error:
        if not code.raised(error):
            raise
        log.exception("an alert failed")
