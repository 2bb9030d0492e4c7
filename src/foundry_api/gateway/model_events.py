"""What happens to models, in the events of llama.cpp's `/models/sse`, and downloads behind it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from foundry_api.types.errors import FoundryError, InvalidRequest
from foundry_api.types.events import ModelLoaded, ModelUnloaded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.core.downloads import DownloadProgress
    from foundry_api.gateway.model_names import ModelNames
    from foundry_api.types.events import Event

__all__ = ["ModelEvents"]

# A subscriber with this many unread events is disconnected; it lists the models when it returns.
MAX_PENDING = 256
MAX_DOWNLOADS = 4

ModelEvent = dict[str, Any]


class ModelEvents:
    """Sends model events to subscribers, and runs downloads in the background.

    Attributes:
        revision: How many events there were.
        loading: The aliases of the models that are being loaded by request.
    """

    def __init__(self, client: FoundryAPIClient, names: ModelNames) -> None:
        self.revision = 0
        self.loading: set[str] = set()
        self._client = client
        self._names = names
        self._subscribers: set[asyncio.Queue[ModelEvent | None]] = set()
        self._downloads: dict[str, asyncio.Task[None]] = {}
        self._progress: dict[str, ModelEvent] = {}
        client.events.subscribe(self._on_event, ModelLoaded, ModelUnloaded)

    async def subscribe(self) -> AsyncGenerator[ModelEvent]:
        """Yield the events from now on."""
        pending: asyncio.Queue[ModelEvent | None] = asyncio.Queue()
        self._subscribers.add(pending)
        try:
            while (event := await pending.get()) is not None:
                yield event
        finally:
            self._subscribers.discard(pending)

    @contextlib.contextmanager
    def report_loading(self, name: str) -> Generator[None]:
        """Report that a model is being loaded, and how that ends."""
        alias, status = self._names.get_alias(name) or name, "unloaded"
        self.loading.add(alias)
        self.publish_status(alias, "loading")
        try:
            yield
            status = "loaded"
        finally:
            self.loading.discard(alias)
            self.publish_status(alias, status)

    def publish_status(self, model: str, status: str) -> None:
        """Report that a model is `loading`, `loaded`, `unloaded` or `downloading`."""
        self._publish(model, "model_status", {"status": status})

    def publish_removal(self, model: str) -> None:
        """Report that the files of a model were deleted."""
        self._publish(model, "model_remove")

    @property
    def downloads(self) -> dict[str, ModelEvent]:
        """The downloads that run, each with its last progress."""
        return {name: self._progress.get(name, {}) for name in self._downloads}

    def start_download(self, model: str) -> None:
        """Download a model in the background; events report how it goes.

        Raises:
            InvalidRequest: It is being downloaded already, or too many others are.
        """
        if model in self._downloads:
            raise InvalidRequest(f"{model} is being downloaded already", field="model")
        if len(self._downloads) >= MAX_DOWNLOADS:
            raise InvalidRequest(
                f"{MAX_DOWNLOADS} downloads run already", field="model", hint="Wait for one."
            )
        self._downloads[model] = asyncio.create_task(self._download(model))

    async def cancel_download(self, model: str) -> bool:
        """End a download; return whether there was one."""
        task = self._downloads.get(model)
        if task is None:
            return False
        task.cancel()
        await asyncio.wait([task])
        return True

    def close(self) -> None:
        """End all subscriptions and downloads: the gateway shuts down."""
        for pending in self._subscribers:
            pending.put_nowait(None)
        for task in self._downloads.values():
            task.cancel()

    async def _download(self, model: str) -> None:
        def report(progress: DownloadProgress) -> None:
            # In bytes, or in percent if the size is unknown.
            total = progress.total_mb
            state = {
                "done": int(progress.percent if total is None else total * progress.percent / 100),
                "total": 100 if total is None else int(total),
            }
            if total is not None:
                state = {name: value * 2**20 for name, value in state.items()}
            self._progress[model] = {model: state}
            self._publish(model, "download_progress", {model: state})

        outcome = "download_failed"
        self.publish_status(model, "downloading")
        try:
            with contextlib.suppress(FoundryError):
                await self._client.models.download(model, report)
                outcome = "download_finished"
        finally:
            del self._downloads[model]
            self._progress.pop(model, None)
            self._publish(model, outcome)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ModelLoaded | ModelUnloaded):
            name = self._names.get_alias(event.model) or event.model
            if isinstance(event, ModelUnloaded):
                self.publish_status(name, "unloaded")
            elif name not in self.loading:  # else reported when all upstreams have it
                self.publish_status(name, "loaded")

    def _publish(self, model: str, kind: str, data: ModelEvent | None = None) -> None:
        self.revision += 1
        event: ModelEvent = {"model": model, "event": kind}
        if data is not None:
            event["data"] = data
        for pending in self._subscribers:
            if pending.qsize() < MAX_PENDING:
                pending.put_nowait(event)
            elif pending.qsize() == MAX_PENDING:
                pending.put_nowait(None)
