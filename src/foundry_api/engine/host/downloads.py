"""Downloads of a host: one for each model, shared by all clients that wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

from foundry_api.types.errors import DownloadFailed, FoundryError, ServerError
from foundry_api.types.models import Model

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from foundry_api.engine.host.native import Engine

    Outcome = Model | FoundryError

__all__ = ["DownloadManager"]

# Percent between two progress reports. The engine reports more often.
MIN_STEP = 0.1

# Interval of the checks for new bytes while the engine reports no progress.
HEARTBEAT_S = 2.0


class DownloadManager:
    """Starts downloads and shares each among its clients."""

    def __init__(self, engine: Engine, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._engine = engine
        self._heartbeat_s = heartbeat_s
        self._running: dict[str, _Download] = {}

    async def subscribe(self, name: str) -> AsyncGenerator[float, None]:
        """Yield percent, and the same percent again while bytes arrive without progress."""
        # Closing this generator unsubscribes. The last client to do so stops the download.
        key = name.casefold()
        download = self._running.get(key)
        if download is None:
            download = _Download(self._engine, name, self._heartbeat_s)
            self._running[key] = download
            download.start(on_done=lambda: self._running.pop(key))
        with download.subscribe() as updates:
            while not isinstance(update := await updates.get(), Model | FoundryError):
                yield update
        if isinstance(update, FoundryError):
            raise update


class _Download:
    """The download of one model. Everything but the engine's own thread runs on the host's loop."""

    def __init__(self, engine: Engine, name: str, heartbeat_s: float) -> None:
        self._engine = engine
        self._name = name
        self._heartbeat_s = heartbeat_s
        self._loop = asyncio.get_running_loop()
        self._subscribers: set[asyncio.Queue[float | Outcome]] = set()
        self._percent = 0.0
        self._cancel = threading.Event()
        self._task: asyncio.Task[None]

    def start(self, on_done: Callable[[], object]) -> None:
        self._task = asyncio.create_task(self._run(on_done))

    @contextlib.contextmanager
    def subscribe(self) -> Generator[asyncio.Queue[float | Outcome]]:
        updates: asyncio.Queue[float | Outcome] = asyncio.Queue()
        self._subscribers.add(updates)
        updates.put_nowait(self._percent)
        try:
            yield updates
        finally:
            self._subscribers.discard(updates)
            if not self._subscribers:
                self._cancel.set()

    async def _run(self, on_done: Callable[[], object]) -> None:
        heartbeat = asyncio.create_task(self._heartbeat())
        try:
            outcome = await self._run_once()
            # The engine notices a cancellation only at its next progress report. A client that
            # subscribed before that gets a new run, which resumes where the stopped one was.
            while (
                self._cancel.is_set() and self._subscribers and isinstance(outcome, DownloadFailed)
            ):
                outcome = await self._run_once()
        finally:
            heartbeat.cancel()
            on_done()
        for updates in self._subscribers:
            updates.put_nowait(outcome)

    async def _run_once(self) -> Outcome:
        # Its own thread, not one of the pool: the engine hangs as long as the catalog's server.
        self._cancel = cancel = threading.Event()
        done: asyncio.Future[Outcome] = self._loop.create_future()

        def work() -> None:
            outcome = self._download(cancel)
            with contextlib.suppress(RuntimeError):  # the host exits and the loop is closed
                self._loop.call_soon_threadsafe(done.set_result, outcome)

        threading.Thread(target=work, name=f"download {self._name}", daemon=True).start()
        return await done

    def _download(self, cancel: threading.Event) -> Outcome:
        try:
            return self._engine.download(self._name, self._on_progress, cancel)
        except FoundryError as error:
            return error
        except Exception as error:  # noqa: BLE001 - nothing else in this thread reports it
            return ServerError(f"the download failed unexpectedly: {type(error).__name__}: {error}")

    def _on_progress(self, percent: float) -> None:
        # The engine calls this from several of its threads, not always in order.
        with contextlib.suppress(RuntimeError):  # the loop is closed, as in _run_once()
            self._loop.call_soon_threadsafe(self._emit, percent)

    def _emit(self, percent: float) -> None:
        if percent - self._percent >= MIN_STEP or percent >= 100 > self._percent:  # noqa: PLR2004
            self._percent = percent
            self._broadcast()

    def _broadcast(self) -> None:
        for updates in self._subscribers:
            updates.put_nowait(self._percent)

    async def _heartbeat(self) -> None:
        received = 0
        while True:
            await asyncio.sleep(self._heartbeat_s)
            before = received
            received = await asyncio.to_thread(self._engine.count_received, self._name)
            if received != before:
                self._broadcast()
