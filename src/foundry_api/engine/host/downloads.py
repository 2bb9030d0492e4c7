"""The downloads of a host: one for each model, however many clients wait for it.

A client that goes stops following. When the last one goes the engine is told to stop, which it
notices at its next progress report; a client that comes before that gets a new run, which goes on
where the stopped one was.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

from foundry_api.types.errors import DownloadFailed, FoundryError, ServerError
from foundry_api.types.messages import Model

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from foundry_api.engine.host.native import Engine

    Outcome = Model | FoundryError

__all__ = ["Downloads"]

MIN_STEP = 0.1
"""Percent between two reports that are passed on; the engine makes many more."""

HEARTBEAT_S = 2.0
"""Between looks whether bytes arrive while the engine reports no progress."""


class Downloads:
    """What is being downloaded.

    Args:
        engine: Does it.
        heartbeat_s: Seconds between looks whether bytes arrive.
    """

    def __init__(self, engine: Engine, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._engine = engine
        self._heartbeat_s = heartbeat_s
        self._running: dict[str, _Download] = {}

    async def follow(self, name: str) -> AsyncGenerator[float, None]:
        """Percent as it comes, and again the same percent while only bytes come.

        Closing the generator stops the download, unless others follow it.

        Raises:
            ModelNotFound: The catalog has no such model.
            CatalogUnavailable: The catalog cannot be reached.
            DownloadFailed: It broke off.
        """
        key = name.casefold()
        download = self._running.get(key)
        if download is None:
            download = _Download(self._engine, name, self._heartbeat_s)
            self._running[key] = download
            download.start(over=lambda: self._running.pop(key))
        with download.followed() as steps:
            while not isinstance(step := await steps.get(), Model | FoundryError):
                yield step
        if isinstance(step, FoundryError):
            raise step


class _Download:
    """One model's download. All of it runs on the host's loop, but for the engine's own thread."""

    def __init__(self, engine: Engine, name: str, heartbeat_s: float) -> None:
        self._engine = engine
        self._name = name
        self._heartbeat_s = heartbeat_s
        self._loop = asyncio.get_running_loop()
        self._followers: set[asyncio.Queue[float | Outcome]] = set()
        self._percent = 0.0
        self._cancel = threading.Event()
        self._task: asyncio.Task[None]

    def start(self, over: Callable[[], object]) -> None:
        self._task = asyncio.create_task(self._run(over))

    @contextlib.contextmanager
    def followed(self) -> Generator[asyncio.Queue[float | Outcome]]:
        steps: asyncio.Queue[float | Outcome] = asyncio.Queue()
        self._followers.add(steps)
        steps.put_nowait(self._percent)
        try:
            yield steps
        finally:
            self._followers.discard(steps)
            if not self._followers:
                self._cancel.set()

    async def _run(self, over: Callable[[], object]) -> None:
        heart = asyncio.create_task(self._beat())
        try:
            outcome = await self._once()
            while self._cancel.is_set() and self._followers and not _final(outcome):
                outcome = await self._once()
        finally:
            heart.cancel()
            over()
        for steps in self._followers:
            steps.put_nowait(outcome)

    async def _once(self) -> Outcome:
        """One run of the engine, in a thread of its own: it may hang as long as a server does."""
        self._cancel = cancel = threading.Event()
        done: asyncio.Future[Outcome] = self._loop.create_future()

        def work() -> None:
            outcome = self._downloaded(cancel)
            with contextlib.suppress(RuntimeError):  # the host is leaving: the loop is closed
                self._loop.call_soon_threadsafe(done.set_result, outcome)

        threading.Thread(target=work, name=f"download {self._name}", daemon=True).start()
        return await done

    def _downloaded(self, cancel: threading.Event) -> Outcome:
        try:
            return self._engine.download(self._name, self._progress, cancel)
        except FoundryError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the engine's thread has nobody else to tell
            return ServerError(f"the download failed unexpectedly: {type(error).__name__}: {error}")

    def _progress(self, percent: float) -> None:
        """Called from threads of the engine's, of which some are behind others."""
        with contextlib.suppress(RuntimeError):  # as above
            self._loop.call_soon_threadsafe(self._tell, percent)

    def _tell(self, percent: float) -> None:
        if percent - self._percent >= MIN_STEP or percent >= 100 > self._percent:  # noqa: PLR2004
            self._percent = percent
            self._pass_on()

    def _pass_on(self) -> None:
        for steps in self._followers:
            steps.put_nowait(self._percent)

    async def _beat(self) -> None:
        received = 0
        while True:
            await asyncio.sleep(self._heartbeat_s)
            before = received
            received = await asyncio.to_thread(self._engine.received, self._name)
            if received != before:
                self._pass_on()


def _final(outcome: Outcome) -> bool:
    """Whether an outcome is other than that of a download that was told to stop."""
    return not isinstance(outcome, DownloadFailed)
