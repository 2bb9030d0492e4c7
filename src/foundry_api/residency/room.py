"""Keeping the models of a service within the budget: room for one more, and room after calls."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from foundry_api.errors import ModelInUse
from foundry_api.messages import Model
from foundry_api.residency.policy import Resident, least_recently_used, victims

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foundry_api.residency.memory import Memory, Store
    from foundry_api.service.uses_db import Known

__all__ = ["keep_to_budget", "make_room", "measured_mb"]

STRANGER = "loaded by a program that is not of this home"

log = logging.getLogger("foundry_api")


async def make_room(memory: Memory, store: Store, model: Model) -> None:
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


async def measured_mb(memory: Memory, store: Store) -> float | None:
    """Memory that the models take; None where there is no budget or it can't be measured."""
    if memory.policy.memory_budget_mb is None:
        return None
    return await store.models_memory_mb()


async def keep_to_budget(memory: Memory, store: Store, *, keep: str | None = None) -> float:
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


async def _residents(memory: Memory, store: Store, refused: Mapping[str, str]) -> list[Resident]:
    known = await memory.others.known()
    return [
        await _resident(memory, store, model_id, known, refused.get(model_id, ""))
        for model_id in sorted(await store.in_memory())
    ]


async def _resident(
    memory: Memory,
    store: Store,
    model_id: str,
    known: Mapping[str, Known] | None,
    refused: str,
) -> Resident:
    uses = memory.uses_of(model_id)
    own = memory.own_users(model_id) if uses.calls else ()
    if known and (row := known.get(model_id)):
        stays = refused or "; ".join(map(str, row.users))
        last_used = max(uses.last_used, row.last)
        model = await store.described(row.model)
        return Resident(model=model, last_used=last_used, users=(*own, *row.users), stays=stays)
    unnamed = Model(id=model_id, alias=model_id, catalog="public", cached=True, loaded=True)
    model = uses.model if uses.loaded_here and uses.model else await store.described(unnamed)
    if not refused and known is not None and not uses.loaded_here:
        refused = STRANGER
    return Resident(model=model, last_used=uses.last_used, users=own, stays=refused)


def _tell_unknown_sizes(model: Model, residents: list[Resident]) -> None:
    unknown = [each.id for each in (model, *(one.model for one in residents)) if not each.size_mb]
    if unknown:
        log.info("counted as 0 MB, as their size is unknown: %s", ", ".join(sorted(set(unknown))))
