"""Which models may stay in memory: the policy, and the arithmetic of making room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_api.types.errors import ConfigurationError, MemoryBudgetExceeded
from foundry_api.types.values import as_float, as_int, format_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foundry_api.types.models import Model, ModelUser
    from foundry_api.types.settings import Settings

__all__ = ["ModelResidency", "Resident", "least_recently_used", "victims"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelResidency:
    """Which models a client keeps in a service's memory.

    It unloads only models that a client of the same home loaded, so never one that an application
    or Foundry's own command line brought into memory, and none that another client of the home
    uses. Unloading may not give all memory back to the system (foundry-local-service.md, 5).

    Attributes:
        keep_alive_s: Seconds after which a model that this client used is unloaded when no client
            called it; None for never.
        memory_budget_mb: Bound of the memory that all models take, in MB; None for none. In an
            engine host of this package it is measured: what its process took since it started,
            calls included. It holds when a model was loaded and soon after calls have ended; the
            calls that run are never ended for it. In other services only the sizes of the models'
            files can be counted, and a model of unknown size counts as 0.
        max_loaded: How many models may be in memory; None for no bound.
        hold_s: Seconds after its last call for which a model counts as used by this client, so that
            no other one of the home unloads it.

    Raises:
        ConfigurationError: A value is not above 0.
    """

    keep_alive_s: float | None = None
    memory_budget_mb: float | None = None
    max_loaded: int | None = None
    hold_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what cannot work, with its name."""
        for name in ("keep_alive_s", "memory_budget_mb", "max_loaded", "hold_s"):
            value: object = getattr(self, name)
            if value is None and name != "hold_s":
                continue
            number = as_int(value) if name == "max_loaded" else as_float(value)
            if number is None or not 0 < number < float("inf"):
                raise ConfigurationError(
                    f"{name} is {format_value(value)}", hint=f"Give {name} above 0."
                )
            object.__setattr__(self, name, number)

    @classmethod
    def of(cls, settings: Settings) -> ModelResidency:
        """What the settings say."""
        return cls(keep_alive_s=settings.keep_alive_s, memory_budget_mb=settings.memory_budget_mb)

    @property
    def bounded(self) -> bool:
        """Whether room may have to be made for a model."""
        return self.memory_budget_mb is not None or self.max_loaded is not None

    @property
    def renew_s(self) -> float:
        """Seconds between two times that other clients are told of a use that goes on."""
        return self.hold_s / 6

    @property
    def sure_s(self) -> float:
        """Seconds after telling them in which a call may begin without telling them again.

        They are told at the latest one renewal later; the other one is for a busy machine.
        """
        return self.hold_s - 2 * self.renew_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A model in memory, as it looks to who wants its room.

    Attributes:
        model: The model.
        last_used: When it was last called, on a clock.
        users: Who uses it.
        stays: Why it can't be unloaded; empty if it can.
    """

    model: Model
    last_used: float = 0.0
    users: tuple[ModelUser, ...] = ()
    stays: str = ""

    @property
    def size_mb(self) -> float:
        """Its size, 0 if unknown."""
        return self.model.size_mb or 0.0

    def __str__(self) -> str:
        size = f"{self.size_mb:.0f} MB" if self.model.size_mb is not None else "of unknown size"
        if self.users:
            return f"{self.model.id} ({size}, used by {'; '.join(map(str, self.users))})"
        return f"{self.model.id} ({', '.join(filter(None, (size, self.stays)))})"


def victims(
    residents: Sequence[Resident],
    model: Model,
    policy: ModelResidency,
    measured_mb: float | None = None,
) -> tuple[Resident, ...]:
    """What to unload so that a model fits: the least recently used first, and no more than needed.

    A model with calls of this client in flight comes after all others, as they have to end first.

    Args:
        residents: The models in memory.
        model: What is to be loaded.
        policy: Has the bounds.
        measured_mb: Memory that the residents really take; None if their files alone are known.

    Raises:
        MemoryBudgetExceeded: It would not fit beside those that have to stay.
    """
    others = [each for each in residents if each.model.id != model.id]
    if len(others) < len(residents):
        return ()  # it is in memory
    order = sorted((each for each in others if not each.stays), key=_dispensable)
    size_mb, count = _total(others), len(others) + 1
    if others and measured_mb is not None:  # what is left of models that are gone serves the next
        size_mb = max(size_mb, measured_mb)
    size_mb += model.size_mb or 0.0
    for needed, each in enumerate((None, *order)):
        if each is not None:
            size_mb, count = size_mb - each.size_mb, count - 1
        if _fits(size_mb if count > 1 else model.size_mb or 0.0, count, policy):
            return tuple(order[:needed])
    raise _exceeded(others, model, policy, size_mb)


def least_recently_used(residents: Iterable[Resident]) -> Resident | None:
    """The model to unload first of those that nobody uses."""
    idle = [each for each in residents if not each.stays and not each.users]
    return min(idle, key=lambda each: each.last_used, default=None)


def _dispensable(resident: Resident) -> tuple[bool, float]:
    return bool(resident.users), resident.last_used


def _total(residents: Iterable[Resident]) -> float:
    return sum(each.size_mb for each in residents)


def _fits(size_mb: float, count: int, policy: ModelResidency) -> bool:
    budget_mb, most = policy.memory_budget_mb, policy.max_loaded
    return (budget_mb is None or size_mb <= budget_mb) and (most is None or count <= most)


def _exceeded(
    others: Sequence[Resident], model: Model, policy: ModelResidency, size_mb: float
) -> MemoryBudgetExceeded:
    staying = [each for each in others if each.stays]
    bounds = [
        f"{policy.memory_budget_mb:g} MB" if policy.memory_budget_mb is not None else "",
        f"{policy.max_loaded} models" if policy.max_loaded is not None else "",
    ]
    message = f"{model.id} takes {size_mb:.0f} MB by itself"
    if staying:
        message = f"with what has to stay, {model.id} would take {size_mb:.0f} MB"
        message += f" in {len(staying) + 1} models"
    message += f", and the budget is {' and '.join(filter(None, bounds))}"
    if others:
        message += f"; in memory: {', '.join(map(str, others))}"
    users = [user for each in staying for user in each.users]
    return MemoryBudgetExceeded(message, model=model.id).with_users(users)
