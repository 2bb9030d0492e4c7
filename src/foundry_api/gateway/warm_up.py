"""The start of the engine and the loading of the configured model, before the first call."""

# It imports little, so that the engine starts in its own process while the gateway is imported.

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from foundry_api.gateway.upstreams.residency import load_model
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foundry_api.client.client import FoundryAPIClient

__all__ = ["WarmUp"]

MIN_RETRY_S, MAX_RETRY_S = 1.0, 30.0

log = logging.getLogger("foundry_api.gateway")


class WarmUp:
    """Finds or starts the engine, and loads a model.

    While there is no engine it tries again, as a gateway that is not ready may get no call that
    would. A model that cannot be loaded is only logged: other models may be called.

    Args:
        client: Calls the engine.
        model: The model to load; None to load none.
        sleep: Waits between two tries.
    """

    def __init__(
        self,
        client: FoundryAPIClient,
        model: str | None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._model = model
        self._sleep = sleep
        self._failure = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def problem(self) -> str | None:
        """Why calls cannot be served yet; None if they can."""
        if not self.is_running:
            return None
        state = "not available; the log says why" if self._failure else "being started"
        return f"the model service is {state}"

    def start(self) -> None:
        """Begin; calls that arrive meanwhile wait for it."""
        self._task = asyncio.ensure_future(self.run())

    async def run(self) -> None:
        """Return when there is an engine, with or without the model."""
        wait_s = MIN_RETRY_S
        while not await self._try():
            await self._sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_RETRY_S)

    async def _try(self) -> bool:
        client, model = self._client, self._model
        try:
            if model is not None:
                await load_model(client, model)
            elif client.settings.services is None:  # several are checked all the time
                await client.capabilities()
        except FoundryError as error:
            is_connected = any(service.connection is not None for service in client.services)
            what = f"model {model}" if model and is_connected else "the model service"
            failure = f"{what} is not available yet: {error}"
            if failure != self._failure:  # once for each cause
                log.warning("%s", failure)
            self._failure = failure
            return is_connected
        if self._failure:
            log.warning("the model service is available")
        return True

    async def cancel(self) -> None:
        """Stop, if it has not ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
