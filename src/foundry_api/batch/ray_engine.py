"""Run a batch on a Ray cluster."""

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
    """A `BatchEngine` with an actor for each service, or with an engine on each node."""

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
        # The address of a running cluster, or `auto` for the one on this machine. With None,
        # RAY_ADDRESS decides, or else a Ray on this machine is started for the run.
        self._address = address
        # With addresses of services there is one actor per address; without, one per node that
        # offers CPUs, with an engine of its own.
        self._settings = settings or Settings.from_environment()
        self._max_attempts = max_attempts
        self._patience_s = patience_s
        self._dedupe = dedupe
        self._on_notice = on_notice
        self._runner: ClusterRunner | None = None

    async def run(self, items: AsyncIterable[WorkItem], /) -> AsyncGenerator[BatchLineResult]:
        async with connect_cluster(self._address):
            # Imported late: these import Ray, and `connect_cluster` reports if it is missing.
            from foundry_api.batch.cluster.driver import ClusterRunner  # noqa: PLC0415
            from foundry_api.batch.cluster.engine_actor import ActorOptions  # noqa: PLC0415

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
        """Do nothing: the nodes finish the lines they have, which are few."""

    def get_state(self) -> EngineState:
        return EngineState() if self._runner is None else self._runner.get_state()
