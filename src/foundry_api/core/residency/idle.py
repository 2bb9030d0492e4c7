"""What has to be done while nobody calls: others are told of uses, and idle models unloaded."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from foundry_api.core.residency.manager import ModelManager
    from foundry_api.core.residency.policy import ModelResidency
    from foundry_api.core.residency.usage import ModelUsage

__all__ = ["IdleUnloader"]

SHORTEST_PAUSE_S = 0.01

log = logging.getLogger("foundry_api")


class IdleUnloader:
    """One task of a client, which is there only while there is something to look after.

    Args:
        memories: Gives the memories of the services that the client is connected to.
        policy: Which models may stay in them.
        clock: Seconds of `time.monotonic`, or of a test's own.
    """

    def __init__(
        self,
        memories: Callable[[], Iterable[ModelManager]],
        policy: ModelResidency,
        clock: Callable[[], float],
    ) -> None:
        self._memories = memories
        self._policy = policy
        self._clock = clock
        self._woken: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    def notify(self) -> None:
        """There is something to look after. Has to be called in the client's event loop."""
        task, loop = self._task, asyncio.get_running_loop()
        if task is None or task.done() or task.get_loop() is not loop:
            # Its work is nobody's own: the first caller's deadline must not end it.
            context = contextvars.Context()
            self._task = loop.create_task(self._run(), context=context)
        elif self._woken is not None:
            self._woken.set()

    async def aclose(self) -> None:
        """End the task."""
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        try:
            while (pause_s := self._pause_s()) is not None:
                await self._pause(max(pause_s, SHORTEST_PAUSE_S))
                for memory in tuple(self._memories()):
                    await self._check_manager(memory)
        finally:
            # From now on nobody tells the others, so the next call has to.
            for memory in self._memories():
                for uses in memory.uses.values():
                    uses.held_until = 0.0

    async def _pause(self, seconds: float) -> None:
        self._woken = asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    async def _check_manager(self, memory: ModelManager) -> None:
        await self._renew(memory)
        if memory.is_unmeasured and self._clock() >= memory.measuring_from:
            try:
                await memory.keep_to_budget()
            except FoundryError as error:
                log.warning("the memory budget could not be kept to: %s", error)
        for uses in tuple(memory.uses.values()):
            if memory.idle(uses):
                try:
                    await memory.unload_idle(uses)
                except FoundryError as error:
                    log.warning("an idle model could not be unloaded: %s", error)

    async def _renew(self, memory: ModelManager) -> None:
        now = self._clock()
        used = {
            model_id: now if uses.calls else uses.last_used
            for model_id, uses in memory.uses.items()
            if memory.others.exist and (uses.calls or uses.last_used > uses.renewed_at)
        }
        if not used:
            return
        lost = frozenset(await memory.others.renew(used))
        memory.loaded.difference_update(lost)
        for model_id, last in used.items():
            uses = memory.uses[model_id]
            uses.renewed_at = now
            uses.held_until = 0.0 if model_id in lost else last + self._policy.sure_s

    def _pause_s(self) -> float | None:
        """Seconds until there is something to do; None if there is nothing to wait for."""
        now, policy = self._clock(), self._policy
        pauses: list[float] = []
        for memory in self._memories():
            if memory.is_unmeasured:
                pauses.append(memory.measuring_from - now)
            for uses in memory.uses.values():
                if memory.others.exist and (uses.calls or uses.held_until > now):
                    pauses.append(policy.renew_s)
                if policy.keep_alive_s is not None and _is_in(memory, uses):
                    due = uses.idle_from(policy.keep_alive_s)
                    pauses.append(policy.keep_alive_s if uses.calls else due - now)
        shortest_s = min(pauses, default=float("inf"))
        return shortest_s if shortest_s < float("inf") else None


def _is_in(memory: ModelManager, uses: ModelUsage) -> bool:
    return uses.model is not None and uses.model.id in memory.loaded
