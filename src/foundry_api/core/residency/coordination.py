"""The other clients of the same home, with which loading and unloading is agreed on."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import urlsplit

from foundry_api.types.errors import ModelInUse
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping

    from foundry_api.core.residency.usage_db import KnownModel, Lease, ModelUsageDb
    from foundry_api.types.models import Model, ModelUser

__all__ = ["NoCoordination", "SharedCoordination", "UsageRegistry", "program_name", "service_name"]

Change = Literal["load", "unload", "budget"]

LONGEST_NAME = 80
FIRST_WAIT_S = 0.01
LONGEST_WAIT_S = 0.25

log = logging.getLogger("foundry_api")
_T = TypeVar("_T")


class NoCoordination:
    """The others of a service that only this client can reach."""

    exist = False
    """Whether anybody else can reach it."""

    async def claim(self, model_id: str) -> None:
        """Have the others leave a model alone. Waits while one of them unloads it."""

    async def renew(self, uses: Mapping[str, float]) -> Iterable[str]:
        """Tell when models were last used. Returns those that may be out of memory by now."""
        del uses
        return ()

    @asynccontextmanager
    async def lease(
        self, model_id: str, change: Change, *, for_s: float, quiet_s: float | None = None
    ) -> AsyncGenerator[None]:
        """Be the only one that loads or unloads a model. Waits for others that do.

        Args:
            model_id: The model.
            change: What will be done.
            for_s: Seconds that it may take.
            quiet_s: Refuse it if others hold the model, or used it in so many seconds.

        Raises:
            ModelInUse: It was refused; the error says who uses the model.
        """
        del model_id, change, for_s, quiet_s
        yield

    async def loaded(self, model: Model) -> None:
        """Tell that this client loaded a model."""

    async def unloaded(self, model_id: str) -> None:
        """Tell that a model is out of memory."""

    async def users(self, model_id: str) -> tuple[ModelUser, ...]:
        """Who of the others uses a model."""
        del model_id
        return ()

    async def known_models(self) -> Mapping[str, KnownModel] | None:
        """Models that clients of this home loaded, by id; None if they can't be told apart."""
        return None


class UsageRegistry:
    """One client among all those that share a home's file of uses.

    The file is never what a call fails of: while it cannot be used, the client works as if it were
    alone, and says so in the log.

    Args:
        path: The file.
        hold_s: Seconds after its last use for which a model counts as used.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        path: Path,
        hold_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.hold_s = hold_s
        self.sleep = sleep
        self._path = path
        self._client = secrets.token_hex(8)
        self._db: ModelUsageDb | None = None
        self._complained = False

    def at(self, base_url: str) -> SharedCoordination:
        """The others that use a service."""
        return SharedCoordination(self, service_name(base_url))

    async def ask(self, question: Callable[[ModelUsageDb], _T], otherwise: _T) -> _T:
        """What the file says, or something else if it cannot be used."""
        # A caller who is cancelled must not leave behind what the thread then writes.
        future = asyncio.ensure_future(asyncio.to_thread(self._run_query, question, otherwise))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait((future,))
            raise

    async def aclose(self) -> None:
        """Use nothing any more."""
        if self._db is not None:
            await self.ask(lambda db: db.unregister(), None)

    def _run_query(self, question: Callable[[ModelUsageDb], _T], otherwise: _T) -> _T:
        try:
            # SQLite and psutil, which a client of an engine of its own does without.
            from foundry_api.core.residency import usage_db  # noqa: PLC0415
        except ImportError as error:  # a Python without SQLite
            return self._degrade(error, otherwise)
        try:
            if self._db is None:
                owner = usage_db.ClientProcess.current(self._client, program_name(sys.argv))
                self._db = usage_db.ModelUsageDb(self._path, owner)
            return question(self._db)
        except usage_db.DatabaseUnavailable as error:
            return self._degrade(error, otherwise)

    def _degrade(self, error: Exception, otherwise: _T) -> _T:
        level = logging.DEBUG if self._complained else logging.WARNING
        self._complained = True
        log.log(level, "loading and unloading is not agreed on with other programs: %s", error)
        return otherwise


class SharedCoordination(NoCoordination):
    """The clients of this home that use one service.

    Args:
        home: This client among them.
        service: The service's name in the file.
    """

    exist = True

    def __init__(self, home: UsageRegistry, service: str) -> None:
        self._home = home
        self._service = service

    async def claim(self, model_id: str) -> None:
        """See `NoCoordination.claim`."""
        hold_s = self._home.hold_s

        def ask(db: ModelUsageDb) -> ModelUser | None:
            return db.claim(self._service, model_id, hold_s)

        waits = self._waits()
        while holder := await self._home.ask(ask, None):
            await self._wait(next(waits), model_id, holder)

    async def renew(self, uses: Mapping[str, float]) -> Iterable[str]:
        """See `NoCoordination.renew`."""
        items, hold_s = tuple(uses.items()), self._home.hold_s
        return await self._home.ask(lambda db: db.renew(self._service, items, hold_s), set())

    @asynccontextmanager
    async def lease(
        self, model_id: str, change: Change, *, for_s: float, quiet_s: float | None = None
    ) -> AsyncGenerator[None]:
        """See `NoCoordination.lease`."""
        token, waits = secrets.token_hex(8), self._waits()

        def ask(db: ModelUsageDb) -> Lease | None:
            return db.lease(self._service, model_id, change, token, for_s=for_s, quiet_s=quiet_s)

        try:
            while (lease := await self._home.ask(ask, None)) and lease.holder:
                await self._wait(next(waits), model_id, lease.holder)
            if lease is not None and lease.users:
                raise self._in_use(model_id, lease.users)
            yield
        finally:
            await self._home.ask(lambda db: db.release(token), None)

    async def loaded(self, model: Model) -> None:
        """See `NoCoordination.loaded`."""
        hold_s = self._home.hold_s
        await self._home.ask(lambda db: db.record_loaded(self._service, model, hold_s), None)

    async def unloaded(self, model_id: str) -> None:
        """See `NoCoordination.unloaded`."""
        await self._home.ask(lambda db: db.record_unloaded(self._service, model_id), None)

    async def users(self, model_id: str) -> tuple[ModelUser, ...]:
        """See `NoCoordination.users`."""
        return await self._home.ask(lambda db: db.list_users(self._service, model_id), ())

    async def known_models(self) -> Mapping[str, KnownModel] | None:
        """See `NoCoordination.known_models`. None while the file cannot be used."""
        nothing: Mapping[str, KnownModel] = {}
        return await self._home.ask(lambda db: db.list_known_models(self._service), nothing)

    async def _wait(self, seconds: float, model_id: str, holder: ModelUser) -> None:
        if seconds == FIRST_WAIT_S:
            who = f"{holder.program} (pid {holder.pid})"
            log.info("waiting for %s, which is loading or unloading %s", who, model_id)
        await self._home.sleep(seconds)

    @staticmethod
    def _waits() -> Iterator[float]:
        wait_s = FIRST_WAIT_S
        while True:
            yield wait_s
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    @staticmethod
    def _in_use(model_id: str, users: tuple[ModelUser, ...]) -> ModelInUse:
        return ModelInUse(
            f"{model_id} is used by {'; '.join(map(str, users))}",
            hint="It is free once they close their client, or have not called it for a minute."
            " force=True (`--force`) takes it from those that are not being answered right now;"
            " SDK 1.x is never asked that.",
            model=model_id,
        ).with_users(users)


def service_name(base_url: str) -> str:
    """A service's name in the file: the same for every spelling of the loopback's."""
    if not is_loopback(base_url):
        return base_url
    parts = urlsplit(base_url)
    return f"127.0.0.1:{parts.port}{parts.path.rstrip('/')}"


def program_name(arguments: list[str]) -> str:
    """What people call a program that was started with these arguments."""
    script = Path(arguments[0]) if arguments and arguments[0] not in {"", "-c", "-m"} else None
    if script is None:
        return Path(sys.executable or "python").name[:LONGEST_NAME]
    name = script.parent.name if script.name == "__main__.py" else script.name
    return (name or "python")[:LONGEST_NAME]
