"""Which models stay in memory: the user's policy, and the choice of those to unload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_api.types.errors import ConfigurationError, MemoryBudgetExceeded
from foundry_api.types.values import as_float, as_int, format_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foundry_api.types.models import Model, ModelUser
    from foundry_api.types.settings import Settings

__all__ = [
    "ModelResidency",
    "Resident",
    "select_least_recently_used",
    "select_models_to_unload",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelResidency:
    """Which models a client keeps in the memory of a service.

    Only models that a client of the same home has loaded are unloaded, and only if no other client
    of the home uses them. Models of other applications or of Foundry's command line stay. Unloading
    may not return all memory to the system (docs/foundry-local-service.md, 5).

    Attributes:
        keep_alive_s: Seconds without a call after which a model that this client has used is
            unloaded. Default: None, for never.
        memory_budget_mb: Maximum memory of all models in MB. Default: None, for no limit. In an
            engine host of this package the memory is measured: the growth of its process since its
            start, including calls. The limit applies after a model is loaded and shortly after
            calls have ended; running calls are never ended for it. In other services the sizes of
            the models' files are added up, and a model of unknown size counts as 0.
        max_loaded: Maximum number of models in memory. Default: None, for no limit.
        hold_s: Seconds after its last call for which a model counts as used by this client, so that
            no other client of the home unloads it. Default: 60.

    Raises:
        ConfigurationError: A value is not above 0.
    """

    keep_alive_s: float | None = None
    memory_budget_mb: float | None = None
    max_loaded: int | None = None
    hold_s: float = 60.0

    def __post_init__(self) -> None:
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
    def from_settings(cls, settings: Settings) -> ModelResidency:
        """Return the policy of the settings."""
        return cls(keep_alive_s=settings.keep_alive_s, memory_budget_mb=settings.memory_budget_mb)

    @property
    def bounded(self) -> bool:
        """Whether there is a limit, so that loading a model may require to unload others."""
        return self.memory_budget_mb is not None or self.max_loaded is not None

    @property
    def renew_s(self) -> float:
        """Seconds between two renewals of a claim."""
        return self.hold_s / 6

    @property
    def sure_s(self) -> float:
        """Seconds after a renewal in which a call may start without another one."""
        # One renewal interval until the next renewal, and one as a reserve on a busy machine.
        return self.hold_s - 2 * self.renew_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A model in memory that may have to make room for another one."""

    model: Model
    last_used: float = 0.0  # monotonic
    users: tuple[ModelUser, ...] = ()
    blocked_by: str = ""  # why it can't be unloaded; empty if it can

    @property
    def size_mb(self) -> float:
        """The size, or 0 if unknown."""
        return self.model.size_mb or 0.0

    def __str__(self) -> str:
        size = f"{self.size_mb:.0f} MB" if self.model.size_mb is not None else "of unknown size"
        if self.users:
            return f"{self.model.id} ({size}, used by {'; '.join(map(str, self.users))})"
        return f"{self.model.id} ({', '.join(filter(None, (size, self.blocked_by)))})"


def select_models_to_unload(
    residents: Sequence[Resident],
    model: Model,
    policy: ModelResidency,
    measured_mb: float | None = None,
) -> tuple[Resident, ...]:
    """Return the fewest models to unload so that `model` fits, the least recently used first.

    `measured_mb` is the memory that the residents really take, if it can be measured.
    """
    others = [resident for resident in residents if resident.model.id != model.id]
    if len(others) < len(residents):
        return ()  # the model is in memory
    candidates = sorted(
        (resident for resident in others if not resident.blocked_by),
        # Models that this client is calling come last, because their calls have to end first.
        key=lambda resident: (bool(resident.users), resident.last_used),
    )
    model_mb = model.size_mb or 0.0
    total_mb, count = sum(resident.size_mb for resident in others), len(others) + 1
    if others and measured_mb is not None:
        # Without residents the measured memory is what unloaded models left, and is used again.
        total_mb = max(total_mb, measured_mb)
    total_mb += model_mb
    budget_mb, max_loaded = policy.memory_budget_mb, policy.max_loaded
    for unload_count, resident in enumerate((None, *candidates)):
        if resident is not None:
            total_mb, count = total_mb - resident.size_mb, count - 1
        needed_mb = total_mb if count > 1 else model_mb
        if (budget_mb is None or needed_mb <= budget_mb) and (
            max_loaded is None or count <= max_loaded
        ):
            return tuple(candidates[:unload_count])
    raise _make_budget_error(others, model, policy, total_mb)


def select_least_recently_used(residents: Iterable[Resident]) -> Resident | None:
    """Return the unused model that was used least recently, if any."""
    idle = [resident for resident in residents if not resident.blocked_by and not resident.users]
    return min(idle, key=lambda resident: resident.last_used, default=None)


def _make_budget_error(
    others: Sequence[Resident], model: Model, policy: ModelResidency, size_mb: float
) -> MemoryBudgetExceeded:
    blocked = [resident for resident in others if resident.blocked_by]
    limits = [
        f"{policy.memory_budget_mb:g} MB" if policy.memory_budget_mb is not None else "",
        f"{policy.max_loaded} models" if policy.max_loaded is not None else "",
    ]
    message = f"{model.id} takes {size_mb:.0f} MB by itself"
    if blocked:
        message = (
            f"with the models that cannot be unloaded, {model.id} would take {size_mb:.0f} MB"
            f" in {len(blocked) + 1} models"
        )
    message += f", and the budget is {' and '.join(filter(None, limits))}"
    if others:
        message += f"; in memory: {', '.join(map(str, others))}"
    users = [user for resident in blocked for user in resident.users]
    return MemoryBudgetExceeded(message, model=model.id).with_users(users)
