"""What answers the lines of a batch: this process's client, or a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

    from foundry_api.batch.lines import Finished, Work

__all__ = ["BatchEngine", "EngineState"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """An engine at one moment.

    Attributes:
        in_flight: Requests at the services now.
        queued: Lines that were taken and wait for their turn.
        limit: How many may be in flight; None where nobody here decides that.
        services: Each service's address and state: `closed` (well), `open` (away), `half-open`.
    """

    in_flight: int = 0
    queued: int = 0
    limit: int | None = None
    services: tuple[tuple[str, str], ...] = ()


class BatchEngine(Protocol):
    """Answers lines."""

    def answers(self, works: AsyncIterable[Work], /) -> AsyncGenerator[Finished]:
        """The lines as they finish; each comes once.

        No more are taken than are needed to keep the services busy. Closing the generator stops
        the engines' work.

        Raises:
            FoundryError: The services are gone for longer than the patience, or the caller's own
                mistake stops every line, such as a model that nobody knows. Lines that were taken
                and not given back are not finished.
        """
        ...

    def drain(self) -> None:
        """Begin no more lines: those in flight are finished, the others are left."""
        ...

    def state(self) -> EngineState:
        """What goes on now."""
        ...
