"""The start of the engine and the loading of the configured model, before the first call."""

# It imports little, so that the engine starts in its own process while the gateway is imported.

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from foundry_api.gateway.upstreams.residency import load_model
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from foundry_api.client.client import FoundryAPIClient

__all__ = ["WarmUp"]

log = logging.getLogger("foundry_api.gateway")


class WarmUp:
    """Finds or starts the engine, and loads a model.

    A failure is logged, as it may pass: the first call tries again.

    Args:
        client: Calls the engine.
        model: The model to load; None to load none.
    """

    def __init__(self, client: FoundryAPIClient, model: str | None) -> None:
        self._client = client
        self._model = model
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin; calls that arrive meanwhile wait for it."""
        self._task = asyncio.ensure_future(self.run())

    async def run(self) -> None:
        """Return when it has ended, with or without success."""
        client, model = self._client, self._model
        try:
            if model is not None:
                await load_model(client, model)
            elif client.services[0].offer is None:  # several are checked all the time
                await client.capabilities()
        except FoundryError as error:
            what = "the model service" if model is None else f"model {model}"
            log.warning("%s is not available yet: %s", what, error)

    async def cancel(self) -> None:
        """Stop, if it has not ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
