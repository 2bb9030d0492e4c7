"""The models in the memory of one service: loaded and unloaded so that no call is in the way."""

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

from foundry_api.core.residency.coordination import program_name
from foundry_api.core.residency.policy import ModelResidency, Resident, least_recently_used, victims
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

__all__ = [
    "DRAIN_S",
    "ModelManager",
    "ResidencyContext",
    "evict_for",
    "keep_to_budget",
    "measured_mb",
]


UNKNOWN_USER = "loaded by a program that is not of this home"

log = logging.getLogger("foundry_api")


async def evict_for(memory: ModelManager, store: ModelStore, model: Model) -> None:
    """Unload what was not used for longest, until a model fits.

    Args:
        memory: Where it is to be loaded.
        store: The same, as the service tells of it.
        model: The model, with its size.

    Raises:
        MemoryBudgetExceeded: It would not fit beside those that have to stay.
    """
    refused: dict[str, str] = {}
    while True:
        residents = await _residents(memory, store, refused)
        _tell_unknown_sizes(model, residents)
        chosen = victims(residents, model, memory.policy, await measured_mb(memory, store))
        if not chosen:
            return
        for each in chosen:
            try:
                await memory.evict(each.model)
            except ModelInUse as error:
                refused[each.model.id] = error.message
                break


async def measured_mb(memory: ModelManager, store: ModelStore) -> float | None:
    """Memory that the models take; None where there is no budget or it can't be measured."""
    if memory.policy.memory_budget_mb is None:
        return None
    return await store.models_memory_mb()


async def keep_to_budget(
    memory: ModelManager, store: ModelStore, *, keep: str | None = None
) -> float:
    """Unload idle models, the least recently used first, while all take more than the budget.

    Args:
        memory: Where they are.
        store: The same, as the service tells of it.
        keep: The id of one that stays.

    Returns:
        Memory in MB by which the budget is still exceeded; 0 where it holds.
    """
    refused: dict[str, str] = {} if keep is None else {keep: "it was just loaded"}
    while True:
        used_mb, budget_mb = await measured_mb(memory, store), memory.policy.memory_budget_mb
        if used_mb is None or budget_mb is None or used_mb <= budget_mb:
            return 0.0
        residents = await _residents(memory, store, refused)
        idle = least_recently_used(residents)
        if idle is None:
            return used_mb - budget_mb if residents else 0.0
        try:
            await memory.evict(idle.model)
        except ModelInUse as error:
            refused[idle.model.id] = error.message


async def _residents(
    memory: ModelManager, store: ModelStore, refused: Mapping[str, str]
) -> list[Resident]:
    known = await memory.others.known_models()
    return [
        await _resident(memory, store, model_id, known, refused.get(model_id, ""))
        for model_id in sorted(await store.loaded_model_ids())
    ]


async def _resident(
    memory: ModelManager,
    store: ModelStore,
    model_id: str,
    known: Mapping[str, KnownModel] | None,
    refused: str,
) -> Resident:
    uses = memory.usage(model_id)
    own = memory.local_users(model_id) if uses.calls else ()
    if known and (row := known.get(model_id)):
        stays = refused or "; ".join(map(str, row.users))
        last_used = max(uses.last_used, row.last_used)
        model = await store.describe(row.model)
        return Resident(model=model, last_used=last_used, users=(*own, *row.users), stays=stays)
    unnamed = Model(id=model_id, alias=model_id, catalog="public", cached=True, loaded=True)
    model = uses.model if uses.loaded_here and uses.model else await store.describe(unnamed)
    if not refused and known is not None and not uses.loaded_here:
        refused = UNKNOWN_USER
    return Resident(model=model, last_used=uses.last_used, users=own, stays=refused)


def _tell_unknown_sizes(model: Model, residents: list[Resident]) -> None:
    unknown = [each.id for each in (model, *(one.model for one in residents)) if not each.size_mb]
    if unknown:
        log.info("counted as 0 MB, as their size is unknown: %s", ", ".join(sorted(set(unknown))))


DRAIN_S = 30.0
"""How long calls in flight may take to end before their model is unloaded."""

ENGINE_RELEASE_S = 5.0
"""How long an engine may hold a model for a call of ours that has ended. It lets go of it some 4 ms
after the answer's last byte, as soon as it gets a turn: on a busy machine that may take a while."""

FOREIGN_GRACE_S = 0.25
"""As much is granted to the calls of programs that we know nothing of: they may have just ended."""

SETTLE_POLL_S = 0.01
SETTLE_POLL_MAX_S = 0.1
MEASURE_INTERVAL_S = 1.0
"""How often the memory is measured at most while calls end one after the other."""

LOAD_LEASE_S = LOAD_TIMEOUT_S + 60.0
ALL_MODELS = "*"
"""Stands for all of a service's memory among the names of models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidencyContext:
    """What the memories of a client's services share.

    Attributes:
        policy: Which models may stay.
        events: Who wants to hear of models that come and go.
        wake: Called when there is something to look after.
        uses: What the client does with the models of each service, by its address. It outlives the
            connections: one may be given up while calls over it are still answered.
        clock: Seconds of `time.monotonic`, or of a test's own.
        sleep: Waits for so many seconds.
    """

    policy: ModelResidency = field(default_factory=ModelResidency)
    events: EventBus = field(default_factory=EventBus)
    wake: Callable[[], None] = lambda: None
    uses: dict[str, dict[str, ModelUsage]] = field(default_factory=dict[str, dict[str, ModelUsage]])
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class ModelStore(Protocol):
    """Where the models are."""

    @property
    def dialect(self) -> Dialect:
        """How to talk to it."""
        ...

    @property
    def base_url(self) -> str:
        """Its address."""
        ...

    @property
    def stored_responses(self) -> StoredResponses:
        """The responses that this client had it store."""
        ...

    async def loaded_model_ids(self) -> frozenset[str]:
        """Ids of the models in memory, without waiting for a remote catalog."""
        ...

    async def describe(self, model: Model) -> Model:
        """A model with its size, where that is known."""
        ...

    async def models_memory_mb(self) -> float | None:
        """Memory that the models take in the engine; None where that can't be measured."""
        ...


class ModelManager:
    """The models in memory of one service.

    Args:
        store: Where they are.
        others: Who else uses it.
        keeping: What all memories of a client share.

    Attributes:
        loaded: Ids of the models that are known to be in memory.
        uses: What this client does with each model, by id.
        others: As above.
        is_unmeasured: Whether calls have ended since the memory was last measured.
        policy: Which models may stay.
    """

    def __init__(
        self, store: ModelStore, others: NoCoordination, keeping: ResidencyContext
    ) -> None:
        self.loaded: set[str] = set()
        self.uses = keeping.uses.setdefault(store.base_url, {})
        self.others = others
        self.is_unmeasured = False
        self.policy = keeping.policy
        self._store = store
        self._keeping = keeping
        self._clock = keeping.clock
        self._turns = KeyedLock()
        self._loads: SingleFlight[None] = SingleFlight()
        self._measured: dict[str, Model] = {}
        self._measured_at = float("-inf")

    def is_loaded(self, model_id: str) -> bool:
        """Whether a call of the model may begin now: it is loaded, and nobody will unload it."""
        if model_id not in self.loaded:
            return False
        if not self.others.exist:
            return True
        uses = self.uses.get(model_id)
        return uses is not None and uses.held_until > self._clock()

    def usage(self, model_id: str) -> ModelUsage:
        """What this client does with a model."""
        uses = self.uses.get(model_id)
        return self.uses.setdefault(model_id, ModelUsage()) if uses is None else uses

    def begin_use(self, model_id: str) -> ModelUsage:
        """A call begins. Whoever says so has to say `end_use`, too."""
        uses = self.uses.get(model_id) or self.usage(model_id)
        uses.calls += 1
        return uses

    def end_use(self, uses: ModelUsage) -> None:
        """A call is over."""
        if uses.changed is not None:
            uses.ended(self._clock())
        else:  # the same, without the call: of few calls the end is waited for
            uses.calls -= 1
            uses.last_used = uses.last_ended = self._clock()
        if self.policy.memory_budget_mb is not None and not uses.calls:
            self.is_unmeasured = True
            self._keeping.wake()

    async def keep_to_budget(self) -> None:
        """Unload idle models if the calls since the last time left too little memory."""
        self.is_unmeasured, self._measured_at = False, self._clock()
        async with self._memory_lock():
            excess_mb = await keep_to_budget(self, self._store)
        if excess_mb:
            log.warning(
                "the models in use take %.0f MB more than the memory budget of %g MB",
                excess_mb,
                self.policy.memory_budget_mb,
            )

    async def users(self, model_id: str) -> tuple[ModelUser, ...]:
        """Who uses a model, this client first."""
        return (*self.local_users(model_id), *await self.others.users(model_id))

    def local_users(self, model_id: str) -> tuple[ModelUser, ...]:
        """This client, if it uses a model."""
        uses, now = self.uses.get(model_id), self._clock()
        if uses is None or not (uses.calls or now < uses.last_used + self.policy.hold_s):
            return ()
        return (
            ModelUser(
                program=program_name(sys.argv),
                pid=os.getpid(),
                last_used_s=0.0 if uses.calls else now - uses.last_used,
                in_flight=uses.calls,
            ),
        )

    async def load(self, model: Model) -> None:
        """Load a model unless it is known to be loaded; concurrent loads are one.

        Raises:
            ModelLoadFailed: The engine could not load it.
            MemoryBudgetExceeded: There is no room, and none can be made.
        """
        if self.is_loaded(model.id):
            return
        uses = self.usage(model.id)
        uses.waiting += 1
        try:
            await self._loads.run(model.id, lambda: self._ensure(model))
        finally:
            uses.on_loaded()

    async def unload(
        self,
        model: Model,
        *,
        drain_s: float = DRAIN_S,
        force: bool = False,
        reason: UnloadReason = "asked",
    ) -> None:
        """Take a model out of memory, once its calls have ended; new ones wait and load it again.

        Args:
            model: The model.
            drain_s: Seconds that calls in flight may take to end.
            force: Neither wait for them nor heed who else uses it. A service that would not
                survive that is asked as without.
            reason: Why.

        Raises:
            ModelInUse: Somebody still uses it.
        """
        force = force and self._store.dialect.capabilities.unload_while_generating != "unsupported"
        async with self._turns.lock(model.id):
            await self._unload(model, reason, drain_s, None if force else 0.0)

    @property
    def measuring_from(self) -> float:
        """When the memory may be measured again."""
        return self._measured_at + MEASURE_INTERVAL_S

    def idle(self, uses: ModelUsage) -> bool:
        """Whether a model was not used for too long."""
        idle_s = self.policy.keep_alive_s
        if idle_s is None or uses.calls or uses.model is None or uses.model.id not in self.loaded:
            return False
        return self._clock() >= uses.idle_from(idle_s)

    async def unload_idle(self, uses: ModelUsage) -> None:
        """Unload a model, if nobody used it for too long. If others did, look again later."""
        model, idle_s = uses.model, self.policy.keep_alive_s
        if model is None or idle_s is None:
            return
        async with self._turns.lock(model.id):
            if self.idle(uses) and await self._loaded_by_us(model, uses):
                uses.idle_at = self._clock() + min(self.policy.renew_s, idle_s)
                with suppress(ModelInUse):
                    await self._unload(model, "idle", 0.0, idle_s)

    async def evict(self, model: Model) -> None:
        """Unload a model for another one.

        Raises:
            ModelInUse: Somebody uses it after all.
        """
        async with self._turns.lock(model.id):
            await self._unload(model, "budget", DRAIN_S, 0.0)

    async def _ensure(self, model: Model) -> None:
        if self.policy.bounded:
            async with self._turns.lock(model.id):
                if await self._claim(model):
                    return
        async with self._memory_lock(), self._turns.lock(model.id):
            if not await self._claim(model):
                await self._load_or_adopt(model)

    async def _claim(self, model: Model) -> bool:
        """Have other clients leave a model alone. Whether it is in memory."""
        uses = self.usage(model.id)
        if not self.is_loaded(model.id):
            await self.others.claim(model.id)
            self._extend_hold(uses)
            self._keeping.wake()
            if self.others.exist and not await self._is_in(model):
                self.loaded.discard(model.id)
                return False
            if not self.others.exist and model.id not in self.loaded:
                return False
        self._adopt_loaded(model, uses)
        return True

    async def _load_or_adopt(self, model: Model) -> None:
        """Load a model, unless another client just did."""
        uses = self.usage(model.id)
        async with self.others.lease(model.id, "load", for_s=LOAD_LEASE_S):
            if not (self.others.exist and await self._is_in(model)):
                await self._load(model, uses)
            self._adopt_loaded(model, uses)
        self._keeping.wake()

    def _adopt_loaded(self, model: Model, uses: ModelUsage) -> None:
        self.loaded.add(model.id)
        uses.model = uses.model or model
        uses.starting = uses.waiting

    @asynccontextmanager
    async def _memory_lock(self) -> AsyncGenerator[None]:
        """Where room may have to be made, one model is loaded at a time."""
        if not self.policy.bounded:
            yield
            return
        async with (
            self._turns.lock(ALL_MODELS),
            self.others.lease(ALL_MODELS, "budget", for_s=LOAD_LEASE_S),
        ):
            yield

    async def _load(self, model: Model, uses: ModelUsage) -> None:
        if self.policy.bounded:
            model = self._measured.get(model.id) or await self._store.describe(model)
            await evict_for(self, self._store, model)
        started, before_mb = self._clock(), await measured_mb(self, self._store)
        await self._store.dialect.load(model)
        await self.others.loaded(model)
        self._extend_hold(uses)
        uses.model, uses.loaded_here = model, True
        if before_mb is not None:
            await self._check_fit(model, before_mb)
        self._emit(
            ModelLoaded(
                model=model.id,
                service=self._store.base_url,
                duration_s=self._clock() - started,
                size_mb=model.size_mb,
            )
        )

    async def _check_fit(self, model: Model, before_mb: float) -> None:
        """Unload a model that turned out to take more memory than there is for it.

        Raises:
            MemoryBudgetExceeded: It did, although all others left that nobody uses.
        """
        after_mb = await measured_mb(self, self._store) or 0.0
        size_mb = max(model.size_mb or 0, math.ceil(after_mb - before_mb))
        self._measured[model.id] = msgspec.structs.replace(model, size_mb=size_mb)
        excess_mb = await keep_to_budget(self, self._store, keep=model.id)
        if excess_mb:
            await self._unload(model, "budget", 0.0, None)
            budget_mb = self.policy.memory_budget_mb or 0.0
            raise MemoryBudgetExceeded(
                f"with {model.id}, which takes {size_mb} MB, the models in memory take "
                f"{budget_mb + excess_mb:.0f} MB, and the budget is {budget_mb:g} MB",
                model=model.id,
            )

    async def _loaded_by_us(self, model: Model, uses: ModelUsage) -> bool:
        """Whether a client of this home loaded a model. What others did is not looked at again."""
        known = await self.others.known_models()
        ours = uses.loaded_here or known is None or model.id in known
        if not ours:
            uses.idle_at = float("inf")
        return ours

    async def _is_in(self, model: Model) -> bool:
        return model.id in await self._store.dialect.get_loaded_ids(model.catalog)

    async def _unload(
        self, model: Model, reason: UnloadReason, drain_s: float, quiet_s: float | None
    ) -> None:
        """Unload a model in its turn.

        Args:
            model: The model.
            reason: Why.
            drain_s: Seconds that calls in flight may take to end.
            quiet_s: Refuse it if others used it in so many seconds, or say that they still do;
                None neither asks them nor waits.
        """
        lease_s = drain_s + LOAD_LEASE_S
        async with self.others.lease(model.id, "unload", for_s=lease_s, quiet_s=quiet_s):
            await self.usage(model.id).wait_waiters_started(FOREIGN_GRACE_S)
            was_known = model.id in self.loaded
            self.loaded.discard(model.id)  # calls that begin from now on line up for a load
            was_in = was_known or await self._is_in(model)
            try:
                await self._drain(model, drain_s, reason, asked=quiet_s is not None)
            except ModelInUse:
                if was_known:
                    self.loaded.add(model.id)
                raise
            await self.others.unloaded(model.id)
        uses = self.usage(model.id)
        uses.held_until, uses.loaded_here = 0.0, False
        if was_in:
            self._emit(ModelUnloaded(model=model.id, service=self._store.base_url, reason=reason))

    async def _drain(
        self, model: Model, drain_s: float, reason: UnloadReason, *, asked: bool
    ) -> None:
        """Unload a model when its calls have ended."""
        began = self._clock()
        if asked and not await self.usage(model.id).drain(drain_s):
            users = self.local_users(model.id)
            raise ModelInUse(
                f"{model.id} is still used after {drain_s:g} s: {'; '.join(map(str, users))}",
                hint="End these calls, or allow them more time.",
                model=model.id,
                service=self._store.base_url,
            ).with_users(users)
        await self._wait_released(
            model, reason, began + max(drain_s, FOREIGN_GRACE_S) if asked else began
        )

    async def _wait_released(self, model: Model, reason: UnloadReason, give_up_at: float) -> None:
        """Unload a model, as often as it takes for the engine to let go of it."""
        wait_s = SETTLE_POLL_S
        while True:
            tried_at = self._clock()
            try:
                return await self._store.dialect.unload(model)
            except ModelInUse as error:
                if reason in {"asked", "swap"} and await self._store.stored_responses.release(
                    model
                ):
                    continue
                if tried_at >= max(give_up_at, self._release_deadline(model)):
                    raise self._in_use_error(model, error) from None
            await self._keeping.sleep(wait_s)
            wait_s = min(2 * wait_s, SETTLE_POLL_MAX_S)

    def _release_deadline(self, model: Model) -> float:
        """Until when a model may still be held for a call of ours that has ended."""
        uses = self.usage(model.id)
        if uses.calls or self._store.stored_responses.for_model(model):
            return float("-inf")
        return uses.last_ended + ENGINE_RELEASE_S

    def _in_use_error(self, model: Model, error: ModelInUse) -> ModelInUse:
        """The error with what keeps a model in memory, where that is known."""
        if stored := self._store.stored_responses.for_model(model):
            error.hint = (
                f"Stored responses keep it: {', '.join(stored)}. Delete them with "
                "client.responses.delete(), or end their conversation."
            )
        return error.with_context(model=model.id)

    def _extend_hold(self, uses: ModelUsage) -> None:
        now = self._clock()
        uses.renewed_at = uses.last_used = now
        uses.held_until = now + self.policy.sure_s

    def _emit(self, event: Event) -> None:
        self._keeping.events.emit(event)
