"""Lines answered by this process's client: as many at once as its services gain by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.batch.engine import EngineState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable
    from pathlib import Path

    from foundry_api.batch.lines import Finished, Work
    from foundry_api.client import FoundryAPIClient

__all__ = ["LocalEngine"]


class LocalEngine:
    """Implements `BatchEngine`.

    Args:
        client: Makes the calls; it stays its owner's to close.
        attempts: How often a line that failed for a passing reason is begun before it counts as
            failed.
        patience_s: Seconds that all services may be away.
        dedupe: Whether identical requests run once. With a directory their answers are kept there,
            and outlive the process.
    """

    def __init__(
        self,
        client: FoundryAPIClient,
        *,
        attempts: int = 3,
        patience_s: float = 600.0,
        dedupe: bool | Path = False,
    ) -> None:
        raise NotImplementedError

    def answers(self, works: AsyncIterable[Work], /) -> AsyncGenerator[Finished]:
        """See `BatchEngine.answers`."""
        raise NotImplementedError

    def state(self) -> EngineState:
        """See `BatchEngine.state`."""
        raise NotImplementedError
