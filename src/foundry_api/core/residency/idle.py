"""A background task that unloads idle models and renews the claims on the others."""

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

__all__ = ["IdleUnloader"]

MIN_PAUSE_S = 0.01

log = logging.getLogger("foundry_api")


class IdleUnloader:
    """One task per client, which runs only while there is something to do."""

    def __init__(
        self,
        get_managers: Callable[[], Iterable[ModelManager]],
        policy: ModelResidency,
        monotonic: Callable[[], float],
    ) -> None:
        self._get_managers = get_managers
        self._policy = policy
        self._monotonic = monotonic
        self._wake_event: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    def notify(self) -> None:
        """Start the task, or wake it up. Call it on the client's event loop."""
        task, loop = self._task, asyncio.get_running_loop()
        if task is None or task.done() or task.get_loop() is not loop:
            # In an empty context: the deadline of the current caller must not end the task.
            self._task = loop.create_task(self._run(), context=contextvars.Context())
        elif self._wake_event is not None:
            self._wake_event.set()

    async def aclose(self) -> None:
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        try:
            while (pause_s := self._get_pause_s()) is not None:
                self._wake_event = asyncio.Event()
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(pause_s, MIN_PAUSE_S)):
                        await self._wake_event.wait()
                for manager in tuple(self._get_managers()):
                    await self._check(manager)
        finally:
            # Claims are no longer renewed, so the next call must claim its model again.
            for manager in self._get_managers():
                for usage in manager.usages.values():
                    usage.held_until = 0.0

    async def _check(self, manager: ModelManager) -> None:
        await self._renew_claims(manager)
        if manager.is_unmeasured and self._monotonic() >= manager.next_measurement_at:
            try:
                await manager.enforce_budget()
            except FoundryError as error:
                log.warning("the memory budget could not be enforced: %s", error)
        for usage in tuple(manager.usages.values()):
            if manager.is_idle(usage):
                try:
                    await manager.unload_idle(usage)
                except FoundryError as error:
                    log.warning("an idle model could not be unloaded: %s", error)

    async def _renew_claims(self, manager: ModelManager) -> None:
        """Extend the claims on the models that were used since the last renewal."""
        now = self._monotonic()
        used = {
            model_id: now if usage.calls else usage.last_used
            for model_id, usage in manager.usages.items()
            if manager.coordination.is_shared
            and (usage.calls or usage.last_used > usage.renewed_at)
        }
        if not used:
            return
        lost = frozenset(await manager.coordination.renew(used))
        manager.loaded.difference_update(lost)
        for model_id, last_used in used.items():
            usage = manager.usages[model_id]
            usage.renewed_at = now
            usage.held_until = 0.0 if model_id in lost else last_used + self._policy.sure_s

    def _get_pause_s(self) -> float | None:
        """Return the seconds until the next work, or None if there is none."""
        now, policy = self._monotonic(), self._policy
        pauses: list[float] = []
        for manager in self._get_managers():
            if manager.is_unmeasured:
                pauses.append(manager.next_measurement_at - now)
            for usage in manager.usages.values():
                if manager.coordination.is_shared and (usage.calls or usage.held_until > now):
                    pauses.append(policy.renew_s)
                is_loaded = usage.model is not None and usage.model.id in manager.loaded
                if policy.keep_alive_s is not None and is_loaded:
                    due_s = usage.idle_from(policy.keep_alive_s) - now
                    pauses.append(policy.keep_alive_s if usage.calls else due_s)
        shortest_s = min(pauses, default=float("inf"))
        return shortest_s if shortest_s < float("inf") else None
