"""Lines answered by a Ray cluster: one engine on every node, or one actor for each service."""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

from foundry_api.batch.cluster.cluster import connect_cluster
from foundry_api.batch.engine import EngineState
from foundry_api.types.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable

    from foundry_api.batch.cluster.driver import ClusterRunner
    from foundry_api.batch.types import BatchLineResult, WorkItem

__all__ = ["RayEngine"]

log = logging.getLogger("foundry_api")


class RayEngine:
    """Implements `BatchEngine`. One run at a time.

    Args:
        address: Of a cluster that runs, or `auto` for the one of this machine; None for that of
            `RAY_ADDRESS`, or else for a Ray of this machine alone, which ends with the run.
        settings: Of the clients in the actors; None takes them from the environment. With
            addresses of services there is one actor for each of them, else one on each node that
            offers CPUs, with an engine of its own.
        attempts: How often a line that failed for a passing reason is begun before it counts as
            failed, and in how many of its actors' deaths it may be in flight.
        patience_s: Seconds that an actor's service may be away before it is left out; when none is
            left, the run ends.
        dedupe: Whether identical lines are asked once.
        tell: Called with sentences for people: where actors work, and which were lost.

    Raises:
        ConfigurationError: A setting of the environment cannot be used.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        settings: Settings | None = None,
        max_attempts: int = 3,
        patience_s: float = 600.0,
        dedupe: bool = False,
        on_notice: Callable[[str], None] = log.info,
    ) -> None:
        self._address = address
        self._settings = settings or Settings.from_environment()
        self._max_attempts = max_attempts
        self._patience_s = patience_s
        self._dedupe = dedupe
        self._on_notice = on_notice
        self._runner: ClusterRunner | None = None

    async def run(self, items: AsyncIterable[WorkItem], /) -> AsyncGenerator[BatchLineResult]:
        """See `BatchEngine.run`.

        Raises:
            BatchError: Ray is not installed, or the cluster cannot be joined or fails.
            FoundryError: As `BatchEngine.run` says.
        """
        async with connect_cluster(self._address):
            # They import Ray, which may not be there before.
            from foundry_api.batch.cluster.driver import ClusterRunner  # noqa: PLC0415
            from foundry_api.batch.cluster.remote import ActorOptions  # noqa: PLC0415

            options = ActorOptions(
                settings=self._settings,
                max_attempts=self._max_attempts,
                patience_s=self._patience_s,
            )
            self._runner = ClusterRunner(options, self._on_notice, dedupe=self._dedupe)
            try:
                async with aclosing(self._runner.run(items)) as answers:
                    async for result in answers:
                        yield result
            finally:
                self._runner = None

    def drain(self) -> None:
        """The nodes finish what they have: it is no more than keeps them busy."""

    def state(self) -> EngineState:
        """See `BatchEngine.state`."""
        return EngineState() if self._runner is None else self._runner.state()
