"""Load and unload the models of one service without disturbing the calls that use them."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from foundry_api.core.residency.coordination import get_program_name
from foundry_api.core.residency.policy import (
    ModelResidency,
    Resident,
    select_least_recently_used,
    select_models_to_unload,
)
from foundry_api.core.residency.usage import KeyedLock, ModelUsage
from foundry_api.resilience.single_flight import SingleFlight
from foundry_api.types.errors import MemoryBudgetExceeded, ModelInUse
from foundry_api.types.events import EventBus, ModelLoaded, ModelUnloaded
from foundry_api.types.models import Model, ModelUser
from foundry_api.wire.dialects.base import LOAD_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from foundry_api.core.residency.coordination import NoCoordination
    from foundry_api.core.residency.stored_responses import StoredResponses
    from foundry_api.core.residency.usage_db import KnownModel
    from foundry_api.types.events import Event, UnloadReason
    from foundry_api.wire.dialects.base import Dialect

__all__ = ["DRAIN_S", "ModelManager", "ResidencyContext"]

log = logging.getLogger("foundry_api")

DRAIN_S = 30.0  # how long the calls in flight may take before their model is unloaded

# How long an engine may report a model in use after our last call has ended. It releases the model
# about 4 ms after the last byte of the answer, but later on a busy machine.
ENGINE_RELEASE_S = 5.0

# The same for calls of programs that do not share our records: they may have just ended.
FOREIGN_GRACE_S = 0.25

# How long a model that was just loaded is not unloaded, so that the calls that loaded it can start.
WAITERS_START_S = 0.25

# Seconds between two attempts to unload a model. Each wait is twice the one before.
FIRST_WAIT_S = 0.01
MAX_WAIT_S = 0.1

MEASURE_INTERVAL_S = 1.0  # how often the memory is measured at most while calls end in a row
LOAD_LEASE_S = LOAD_TIMEOUT_S + 60.0
ALL_MODELS = "*"  # stands for a model id in locks on the whole memory of a service
FOREIGN_USER = "loaded by a program outside this home"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidencyContext:
    """State that the model managers of a client share."""

    policy: ModelResidency = field(default_factory=ModelResidency)
    events: EventBus = field(default_factory=EventBus)
    wake: Callable[[], None] = lambda: None  # called when there is work for the idle unloader
    # By base URL and model id. It outlives the connections, because a connection may be dropped
    # while some of its calls are still answered.
    usages: dict[str, dict[str, ModelUsage]] = field(
        default_factory=dict[str, dict[str, ModelUsage]]
    )
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class ModelStore(Protocol):
    """The part of `Connection` that a model manager needs."""

    @property
    def dialect(self) -> Dialect: ...

    @property
    def base_url(self) -> str: ...

    @property
    def stored_responses(self) -> StoredResponses: ...

    async def list_loaded_ids(self) -> frozenset[str]: ...

    async def describe(self, model: Model) -> Model: ...

    async def measure_models_mb(self) -> float | None: ...


class ModelManager:
    """The models in the memory of one service.

    `loaded` has the ids of the models that are known to be loaded, `usages` what this client does
    with each model. `coordination` has the other clients of the service.
    """

    def __init__(
        self, store: ModelStore, coordination: NoCoordination, context: ResidencyContext
    ) -> None:
        self.loaded: set[str] = set()
        self.usages = context.usages.setdefault(store.base_url, {})
        self.coordination = coordination
        self.policy = context.policy
        self.is_unmeasured = False  # whether calls have ended since the last measurement
        self._store = store
        self._context = context
        self._monotonic = context.monotonic
        self._locks = KeyedLock()
        self._loads: SingleFlight[None] = SingleFlight()
        self._measured_models: dict[str, Model] = {}  # models with their measured sizes, by id
        self._measured_at = float("-inf")

    def is_loaded(self, model_id: str) -> bool:
        """Whether a call may use the model now: it is loaded, and no client will unload it."""
        if model_id not in self.loaded:
            return False
        if not self.coordination.is_shared:
            return True
        usage = self.usages.get(model_id)
        return usage is not None and usage.held_until > self._monotonic()

    def get_usage(self, model_id: str) -> ModelUsage:
        usage = self.usages.get(model_id)
        return self.usages.setdefault(model_id, ModelUsage()) if usage is None else usage

    def begin_use(self, model_id: str) -> ModelUsage:
        """Record that a call starts. The caller must call `end_use` when it ends."""
        usage = self.usages.get(model_id) or self.get_usage(model_id)
        usage.calls += 1
        return usage

    def end_use(self, usage: ModelUsage) -> None:
        """Record that a call has ended."""
        if usage.changed is not None:
            usage.end_call(self._monotonic())
        else:  # `end_call` inlined, because this runs for every call and rarely anything waits
            usage.calls -= 1
            usage.last_used = usage.last_ended = self._monotonic()
        if self.policy.memory_budget_mb is not None and not usage.calls:
            self.is_unmeasured = True
            self._context.wake()

    async def list_users(self, model_id: str) -> tuple[ModelUser, ...]:
        """Return the clients that use a model, this client first."""
        return (*self.list_local_users(model_id), *await self.coordination.list_users(model_id))

    def list_local_users(self, model_id: str) -> tuple[ModelUser, ...]:
        """Return this client if it uses the model."""
        usage, now = self.usages.get(model_id), self._monotonic()
        if usage is None or not (usage.calls or now < usage.last_used + self.policy.hold_s):
            return ()
        return (
            ModelUser(
                program=get_program_name(sys.argv),
                pid=os.getpid(),
                last_used_s=0.0 if usage.calls else now - usage.last_used,
                in_flight=usage.calls,
            ),
        )

    # --- loading ------------------------------------------------------------------------------

    async def load(self, model: Model) -> None:
        """Load a model unless it is loaded. Concurrent calls share one load."""
        if self.is_loaded(model.id):
            return
        usage = self.get_usage(model.id)
        usage.waiting += 1
        try:
            await self._loads.run(model.id, lambda: self._ensure_loaded(model))
        finally:
            usage.end_waiting()

    async def _ensure_loaded(self, model: Model) -> None:
        if self.policy.bounded:
            # First without the memory lock, which is held for as long as any other model loads.
            async with self._locks.lock(model.id):
                if await self._claim(model):
                    return
        async with self._lock_memory(), self._locks.lock(model.id):
            if await self._claim(model):
                return
            usage = self.get_usage(model.id)
            async with self.coordination.lease(model.id, "load", for_s=LOAD_LEASE_S):
                # Another client may have loaded it while this one waited for the lease.
                if not (self.coordination.is_shared and await self._is_in_memory(model)):
                    await self._load(model, usage)
                self._mark_loaded(model, usage)
            self._context.wake()

    async def _claim(self, model: Model) -> bool:
        """Keep other clients from unloading a model. Return whether it is loaded."""
        usage = self.get_usage(model.id)
        if not self.is_loaded(model.id):
            await self.coordination.claim(model.id)
            self._extend_hold(usage)
            self._context.wake()
            # Until the claim, another client may have unloaded what is in `loaded`.
            if self.coordination.is_shared and not await self._is_in_memory(model):
                self.loaded.discard(model.id)
                return False
            if not self.coordination.is_shared and model.id not in self.loaded:
                return False
        self._mark_loaded(model, usage)
        return True

    def _mark_loaded(self, model: Model, usage: ModelUsage) -> None:
        self.loaded.add(model.id)
        usage.model = usage.model or model
        usage.starting = usage.waiting

    async def _load(self, model: Model, usage: ModelUsage) -> None:
        if self.policy.bounded:
            model = self._measured_models.get(model.id) or await self._store.describe(model)
            await self._make_room(model)
        started_at, before_mb = self._monotonic(), await self._measure_mb()
        await self._store.dialect.load(model)
        await self.coordination.record_loaded(model)
        self._extend_hold(usage)
        usage.model, usage.loaded_here = model, True
        if before_mb is not None:
            await self._check_fit(model, before_mb)
        self._emit(
            ModelLoaded(
                model=model.id,
                service=self._store.base_url,
                duration_s=self._monotonic() - started_at,
                size_mb=model.size_mb,
            )
        )

    async def _check_fit(self, model: Model, before_mb: float) -> None:
        """Unload the model again if it needs more memory than the budget has left for it."""
        after_mb = await self._measure_mb() or 0.0
        size_mb = max(model.size_mb or 0, math.ceil(after_mb - before_mb))
        self._measured_models[model.id] = msgspec.structs.replace(model, size_mb=size_mb)
        excess_mb = await self._unload_idle_models(keep=model.id)
        if excess_mb:
            await self._unload(model, "budget", 0.0, None)
            budget_mb = self.policy.memory_budget_mb or 0.0
            raise MemoryBudgetExceeded(
                f"with {model.id}, which takes {size_mb} MB, the models in memory take "
                f"{budget_mb + excess_mb:.0f} MB, and the budget is {budget_mb:g} MB",
                model=model.id,
            )

    # --- the budget ---------------------------------------------------------------------------

    async def enforce_budget(self) -> None:
        """Unload idle models if the calls since the last time left too little memory."""
        self.is_unmeasured, self._measured_at = False, self._monotonic()
        async with self._lock_memory():
            excess_mb = await self._unload_idle_models()
        if excess_mb:
            log.warning(
                "the models in use take %.0f MB more than the memory budget of %g MB",
                excess_mb,
                self.policy.memory_budget_mb,
            )

    @property
    def next_measurement_at(self) -> float:
        """The time from which the memory may be measured again."""
        return self._measured_at + MEASURE_INTERVAL_S

    async def _make_room(self, model: Model) -> None:
        """Unload the least recently used models until this one fits."""
        refused: dict[str, str] = {}
        while True:
            residents = await self._list_residents(refused)
            models = (model, *(resident.model for resident in residents))
            unsized = {candidate.id for candidate in models if not candidate.size_mb}
            if unsized:
                names = ", ".join(sorted(unsized))
                log.info("counted as 0 MB, as their size is unknown: %s", names)
            selected = select_models_to_unload(
                residents, model, self.policy, await self._measure_mb()
            )
            if not selected:
                return
            for resident in selected:
                try:
                    await self._evict(resident.model)
                except ModelInUse as error:
                    # In use after all, such as by a call that has just started: select others.
                    refused[resident.model.id] = error.message
                    break

    async def _unload_idle_models(self, *, keep: str | None = None) -> float:
        """Unload idle models but `keep` until the others fit into the budget.

        Return the memory in MB by which they still exceed it.
        """
        refused: dict[str, str] = {} if keep is None else {keep: "it was just loaded"}
        while True:
            used_mb, budget_mb = await self._measure_mb(), self.policy.memory_budget_mb
            if used_mb is None or budget_mb is None or used_mb <= budget_mb:
                return 0.0
            residents = await self._list_residents(refused)
            idle = select_least_recently_used(residents)
            if idle is None:
                return used_mb - budget_mb if residents else 0.0
            try:
                await self._evict(idle.model)
            except ModelInUse as error:
                refused[idle.model.id] = error.message

    async def _evict(self, model: Model) -> None:
        async with self._locks.lock(model.id):
            await self._unload(model, "budget", DRAIN_S, 0.0)

    async def _measure_mb(self) -> float | None:
        if self.policy.memory_budget_mb is None:
            return None
        return await self._store.measure_models_mb()

    async def _list_residents(self, refused: Mapping[str, str]) -> list[Resident]:
        """Return the models in memory. `refused` has why some can't be unloaded, by id."""
        known = await self.coordination.list_known_models()
        return [
            await self._make_resident(model_id, known, refused.get(model_id, ""))
            for model_id in sorted(await self._store.list_loaded_ids())
        ]

    async def _make_resident(
        self, model_id: str, known: Mapping[str, KnownModel] | None, refusal: str
    ) -> Resident:
        usage = self.get_usage(model_id)
        own = self.list_local_users(model_id) if usage.calls else ()
        if known and (row := known.get(model_id)):
            return Resident(
                model=await self._store.describe(row.model),
                last_used=max(usage.last_used, row.last_used),
                users=(*own, *row.users),
                blocked_by=refusal or "; ".join(map(str, row.users)),
            )
        unnamed = Model(id=model_id, alias=model_id, catalog="public", cached=True, loaded=True)
        model = usage.model if usage.loaded_here and usage.model else None
        if not refusal and known is not None and not usage.loaded_here:
            refusal = FOREIGN_USER
        return Resident(
            model=model or await self._store.describe(unnamed),
            last_used=usage.last_used,
            users=own,
            blocked_by=refusal,
        )

    # --- unloading ----------------------------------------------------------------------------

    async def unload(
        self,
        model: Model,
        *,
        drain_s: float = DRAIN_S,
        force: bool = False,
        reason: UnloadReason = "requested",
    ) -> None:
        """Unload a model once its calls have ended. New calls wait, and load it again.

        `drain_s` are the seconds for the calls in flight. `force` neither waits for them nor for
        other clients, except on services that would crash.
        """
        force = force and self._store.dialect.capabilities.unload_while_generating != "unsupported"
        async with self._locks.lock(model.id):
            await self._unload(model, reason, drain_s, None if force else 0.0)

    def is_idle(self, usage: ModelUsage) -> bool:
        """Whether a loaded model was not used for longer than the policy allows."""
        idle_s, model = self.policy.keep_alive_s, usage.model
        if idle_s is None or usage.calls or model is None or model.id not in self.loaded:
            return False
        return self._monotonic() >= usage.idle_from(idle_s)

    async def unload_idle(self, usage: ModelUsage) -> None:
        """Unload a model if no client has used it for too long."""
        model, idle_s = usage.model, self.policy.keep_alive_s
        if model is None or idle_s is None:
            return
        async with self._locks.lock(model.id):
            if not self.is_idle(usage):
                return
            known = await self.coordination.list_known_models()
            if not (usage.loaded_here or known is None or model.id in known):
                usage.idle_at = float("inf")  # another program loaded it: never unload it
                return
            # If other clients use it, check again after this time.
            usage.idle_at = self._monotonic() + min(self.policy.renew_s, idle_s)
            with suppress(ModelInUse):
                await self._unload(model, "idle", 0.0, idle_s)

    async def _unload(
        self, model: Model, reason: UnloadReason, drain_s: float, quiet_s: float | None
    ) -> None:
        """Unload a model, whose lock is held.

        Fails if other clients use it or have used it within `quiet_s`; None ignores them, and does
        not wait for the calls of this client either.
        """
        lease_s = drain_s + LOAD_LEASE_S
        async with self.coordination.lease(model.id, "unload", for_s=lease_s, quiet_s=quiet_s):
            # Callers for which it was just loaded make their call first. Else two models that
            # replace each other would be loaded and unloaded without a single call.
            await self.get_usage(model.id).wait_for_starting_calls(WAITERS_START_S)
            was_known = model.id in self.loaded
            self.loaded.discard(model.id)  # so that new calls wait for a load
            was_loaded = was_known or await self._is_in_memory(model)
            try:
                await self._unload_when_free(model, reason, drain_s, is_forced=quiet_s is None)
            except ModelInUse:
                if was_known:
                    self.loaded.add(model.id)
                raise
            await self.coordination.record_unloaded(model.id)
        usage = self.get_usage(model.id)
        usage.held_until, usage.loaded_here = 0.0, False
        if was_loaded:
            self._emit(ModelUnloaded(model=model.id, service=self._store.base_url, reason=reason))

    async def _unload_when_free(
        self, model: Model, reason: UnloadReason, drain_s: float, *, is_forced: bool
    ) -> None:
        """Wait for the calls of this client, then unload until the engine no longer refuses it."""
        usage, stored_responses = self.get_usage(model.id), self._store.stored_responses
        give_up_at = self._monotonic()
        if not is_forced:
            give_up_at += max(drain_s, FOREIGN_GRACE_S)
            if not await usage.drain(drain_s):
                users = self.list_local_users(model.id)
                raise ModelInUse(
                    f"{model.id} is still used after {drain_s:g} s: {'; '.join(map(str, users))}",
                    hint="End these calls, or allow them more time.",
                    model=model.id,
                    service=self._store.base_url,
                ).with_users(users)
        wait_s = FIRST_WAIT_S
        while True:
            tried_at = self._monotonic()
            try:
                await self._store.dialect.unload(model)
            except ModelInUse as error:
                # A 2.x service keeps a model that has stored responses.
                if reason in {"requested", "swap"} and await stored_responses.release(model):
                    continue
                response_ids = stored_responses.for_model(model)
                is_ours = bool(usage.calls or response_ids)
                released_at = float("-inf") if is_ours else usage.last_ended + ENGINE_RELEASE_S
                if tried_at >= max(give_up_at, released_at):
                    if response_ids:
                        error.hint = (
                            f"Stored responses keep it: {', '.join(response_ids)}. Delete them "
                            "with client.responses.delete(), or end their conversation."
                        )
                    raise error.with_context(model=model.id) from None
            else:
                return
            await self._context.sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_WAIT_S)

    # --- helpers ------------------------------------------------------------------------------

    @asynccontextmanager
    async def _lock_memory(self) -> AsyncGenerator[None]:
        """With limits, let only one model be loaded at a time: it may have to make room."""
        if not self.policy.bounded:
            yield
            return
        async with (
            self._locks.lock(ALL_MODELS),
            self.coordination.lease(ALL_MODELS, "budget", for_s=LOAD_LEASE_S),
        ):
            yield

    async def _is_in_memory(self, model: Model) -> bool:
        return model.id in await self._store.dialect.get_loaded_ids(model.catalog)

    def _extend_hold(self, usage: ModelUsage) -> None:
        now = self._monotonic()
        usage.renewed_at = usage.last_used = now
        usage.held_until = now + self.policy.sure_s

    def _emit(self, event: Event) -> None:
        self._context.events.emit(event)
