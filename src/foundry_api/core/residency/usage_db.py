"""The SQLite file in which the programs of a home record which models they use.

A client has a row in `uses` per model: its claim, which expires some time after its last call and
when its process dies. A client that loads or unloads a model holds a lease on it. Times are those
of `time.monotonic`, which all processes of a machine share.

Every method blocks for milliseconds, so call it in a thread. The file is closed after each call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from foundry_api.engine import state
from foundry_api.storage.database_files import (
    FileFormat,
    get_file_identity,
    quarantine,
    remove_quarantined,
)
from foundry_api.storage.lock import FileLock, LockTimeout
from foundry_api.storage.paths import PRIVATE_DIRECTORY
from foundry_api.storage.private_file import create_file
from foundry_api.storage.sqlite import (
    ForeignFile,
    NotADatabase,
    OtherFormat,
    check_row,
    check_rows,
    closing_on_error,
    is_damage,
    open_database,
)
from foundry_api.types.errors import FoundryError
from foundry_api.types.models import Model, ModelUser

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from pathlib import Path

__all__ = ["ClientProcess", "DatabaseUnavailable", "KnownModel", "Lease", "ModelUsageDb"]

Change = Literal["load", "unload", "budget"]

MAX_QUARANTINED = 3  # damaged files to keep
BUSY_S = 5.0  # how long a process waits for the write of another, which takes a millisecond

# The loads of services that have ended are not removed, and each ephemeral port is a new service.
MAX_KNOWN_MODELS = 1000

SCHEMA = """
create table clients (
    client text primary key, pid int, create_time real, program text
) without rowid;
create table uses (
    service text, model text, client text, last real, until real,
    primary key (service, model, client)
) without rowid;
create table loads (
    service text, model text, alias text, catalog text, size_mb real, at real,
    primary key (service, model)
) without rowid;
create table leases (
    service text, model text, token text, client text, change text, until real,
    primary key (service, model)
) without rowid;
"""

# The application id is `fouu`. It distinguishes these files from other SQLite databases.
FORMAT = FileFormat(
    application_id=0x666F7575,
    version=1,
    schema=SCHEMA,
    unmarked_tables=frozenset({"clients", "uses", "loads", "leases"}),
)

COLUMNS: dict[str, tuple[type | tuple[type, ...], ...]] = {
    "clients": (str, int, float, str),
    "uses": (str, str, str, float, float),
    "loads": (str, str, str, str, (float, type(None)), float),
    "leases": (str, str, str, str, str, float),
}

log = logging.getLogger("foundry_api")


class DatabaseUnavailable(Exception):
    """The file cannot be used now. Callers continue without it."""


@dataclass(frozen=True, slots=True)
class ClientProcess:
    """A client and its process."""

    client_id: str  # random, because a process can have several clients
    program: str
    pid: int
    create_time: float  # seconds since the epoch; distinguishes processes that reuse a pid

    @property
    def is_alive(self) -> bool:
        return state.get_process(self.pid, self.create_time) is not None

    @classmethod
    def current(cls, client_id: str, program: str) -> ClientProcess:
        return cls(client_id, program, os.getpid(), state.get_own_create_time())


@dataclass(frozen=True, slots=True)
class Lease:
    """The result of a request for a lease: it is granted, or another client is in the way."""

    token: str | None = None  # None if it is not granted
    holder: ModelUser | None = None  # the client that holds it
    users: tuple[ModelUser, ...] = ()  # the clients that use the model


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that a client of this home has loaded, and the other clients that use it."""

    model: Model
    last_used: float  # when any client last called or loaded it
    users: tuple[ModelUser, ...]


class ModelUsageDb:
    """The file from the view of one client. Every method may raise DatabaseUnavailable."""

    def __init__(
        self,
        path: Path,
        client: ClientProcess,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        is_alive: Callable[[ClientProcess], bool] = lambda process: process.is_alive,
    ) -> None:
        self._path = path
        self._client = client
        self._monotonic = monotonic
        self._is_alive = is_alive
        self._known_identity: tuple[int, int] | None = None

    def claim(self, service: str, model: str, hold_s: float) -> ModelUser | None:
        """Record that this client uses a model for `hold_s` seconds.

        If another client is unloading the model, nothing is recorded and that client is returned.
        """
        with self._transaction() as db:
            self._purge_dead_clients(db)
            if unloading := self._find_holder(db, service, model, "unload"):
                return unloading
            self._upsert_uses(db, [(service, model, self._monotonic())], hold_s)
            return None

    def renew(self, service: str, uses: Iterable[tuple[str, float]], hold_s: float) -> set[str]:
        """Extend the claims on models until `hold_s` seconds after their last use.

        Returns the models whose claims have expired, so that they may be unloaded.
        """
        with self._transaction() as db:
            rows = db.execute(
                "select model, until from uses where service = ? and client = ?",
                (service, self._client.client_id),
            )
            held_until = dict(check_rows(rows, str, float))
            now = self._monotonic()
            renewed = [
                (service, model, last) for model, last in uses if held_until.get(model, 0.0) > now
            ]
            self._upsert_uses(db, renewed, hold_s)
            return {model for model, _ in uses} - {model for _, model, _ in renewed}

    def lease(
        self,
        service: str,
        model: str,
        change: Change,
        token: str,
        *,
        for_s: float,
        quiet_s: float | None = None,
    ) -> Lease:
        """Request the right to load or unload a model for `for_s` seconds.

        With `quiet_s` it is not granted if another client uses the model or has used it within that
        time. The lease of a dead process is void.
        """
        with self._transaction() as db:
            self._purge_dead_clients(db)
            if holder := self._find_holder(db, service, model):
                return Lease(holder=holder)
            users = () if quiet_s is None else self._find_users(db, service, model, quiet_s)
            if users:
                return Lease(users=users)
            until = self._monotonic() + for_s
            self._register_client(db)
            db.execute(
                "insert or replace into leases values (?, ?, ?, ?, ?, ?)",
                (service, model, token, self._client.client_id, change, until),
            )
            return Lease(token)

    def release(self, token: str) -> None:
        """End a lease, if it is held."""
        with self._transaction() as db:
            db.execute("delete from leases where token = ?", (token,))

    def record_loaded(self, service: str, model: Model, hold_s: float) -> None:
        """Record that this client has loaded a model and uses it."""
        with self._transaction() as db:
            now = self._monotonic()
            db.execute(
                "insert or replace into loads values (?, ?, ?, ?, ?, ?)",
                (service, model.id, model.alias, model.catalog, model.size_mb, now),
            )
            # Times in the future are from before the last boot, which restarted the clock.
            db.execute(
                "delete from loads where at > ? or at <= "
                "(select at from loads order by at desc limit 1 offset ?)",
                (now, MAX_KNOWN_MODELS),
            )
            self._upsert_uses(db, [(service, model.id, now)], hold_s)

    def record_unloaded(self, service: str, model: str) -> None:
        """Record that a model is unloaded, so that no client uses it."""
        with self._transaction() as db:
            for table in ("loads", "uses"):
                db.execute(
                    f"delete from {table} where service = ? and model = ?",  # noqa: S608 - constants
                    (service, model),
                )

    def list_users(self, service: str, model: str) -> tuple[ModelUser, ...]:
        """Return the other clients that use a model."""
        with self._transaction() as db:
            self._purge_dead_clients(db)
            return self._find_users(db, service, model, 0.0)

    def list_known_models(self, service: str) -> dict[str, KnownModel]:
        """Return the models that clients of this home have loaded and not unloaded, by id."""
        with self._transaction() as db:
            self._purge_dead_clients(db)
            rows = db.execute(
                "select model, alias, catalog, size_mb, max(at, coalesce((select max(last) from "
                "uses where uses.service = loads.service and uses.model = loads.model), at)) "
                "from loads where service = ?",
                (service,),
            )
            return {
                model: KnownModel(
                    Model(
                        id=model,
                        alias=alias,
                        catalog=catalog,
                        cached=True,
                        loaded=True,
                        size_mb=size_mb,
                    ),
                    last_used,
                    self._find_users(db, service, model, 0.0),
                )
                for model, alias, catalog, size_mb, last_used in check_rows(
                    rows, str, str, str, (float, type(None)), float
                )
            }

    def unregister(self) -> None:
        """Remove this client."""
        with self._transaction() as db:
            self._remove_client(db, self._client.client_id)

    def _upsert_uses(
        self, db: sqlite3.Connection, uses: Sequence[tuple[str, str, float]], hold_s: float
    ) -> None:
        self._register_client(db)
        client = self._client.client_id
        db.executemany(
            "insert or replace into uses values (?, ?, ?, ?, ?)",
            [(service, model, client, last, last + hold_s) for service, model, last in uses],
        )

    def _register_client(self, db: sqlite3.Connection) -> None:
        client = self._client
        db.execute(
            "insert or ignore into clients values (?, ?, ?, ?)",
            (client.client_id, client.pid, client.create_time, client.program),
        )

    def _find_holder(
        self, db: sqlite3.Connection, service: str, model: str, change: Change | None = None
    ) -> ModelUser | None:
        """Return the other client that holds a lease on a model, for this change or for any."""
        # A client does not block itself: it has a lock of its own per model.
        row = db.execute(
            "select program, pid from leases join clients using (client) where service = ? "
            "and model = ? and client <> ? and until > ? and change = coalesce(?, change)",
            (service, model, self._client.client_id, self._monotonic(), change),
        ).fetchone()
        if row is None:
            return None
        program, pid = check_row(row, str, int)
        return ModelUser(program=program, pid=pid, last_used_s=0.0)

    def _find_users(
        self, db: sqlite3.Connection, service: str, model: str, quiet_s: float
    ) -> tuple[ModelUser, ...]:
        now = self._monotonic()
        rows = db.execute(
            "select program, pid, last from uses join clients using (client) where service = ? "
            "and model = ? and client <> ? and (until > ? or last > ?) order by last desc",
            (service, model, self._client.client_id, now, now - quiet_s),
        )
        return tuple(
            ModelUser(program=program, pid=pid, last_used_s=now - last)
            for program, pid, last in check_rows(rows, str, int, float)
        )

    def _purge_dead_clients(self, db: sqlite3.Connection) -> None:
        rows = db.execute(
            "select client, program, pid, create_time from clients where client <> ?",
            (self._client.client_id,),
        )
        for process in [ClientProcess(*row) for row in check_rows(rows, str, str, int, float)]:
            if not self._is_alive(process):
                self._remove_client(db, process.client_id)

    @staticmethod
    def _remove_client(db: sqlite3.Connection, client: str) -> None:
        for table in ("uses", "leases", "clients"):
            db.execute(
                f"delete from {table} where client = ?",  # noqa: S608 - constants
                (client,),
            )

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        try:
            with contextlib.closing(self._open()) as db:
                db.execute("begin immediate")
                yield db
                db.execute("commit")
        except ForeignFile as error:
            raise DatabaseUnavailable(f"{self._path}: {error}; move it away") from error
        except (sqlite3.Error, OSError, OtherFormat, LockTimeout) as error:
            if is_damage(error):
                # The header is intact, so `_open` did not notice the damage. This call fails with
                # the error below, and the next one finds a new file.
                with contextlib.suppress(
                    sqlite3.Error, OSError, ForeignFile, OtherFormat, FoundryError
                ):
                    self._quarantine()
            raise DatabaseUnavailable(f"{self._path}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
        try:
            return self._connect()
        except NotADatabase:
            pass  # only this package uses this name here, so this is a damaged file of ours
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
        self._quarantine()
        return self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = open_database(
            self._path,
            FORMAT,
            lock=self._make_lock(),
            timeout_s=BUSY_S,
            known_identity=self._known_identity,
        )
        self._known_identity = get_file_identity(self._path)
        with closing_on_error(db):
            # A crash of the machine may lose the last writes, but it also ends the processes that
            # they are about.
            db.execute("pragma synchronous = off")
        return db

    def _quarantine(self) -> None:
        """Rename a damaged file and create an empty one."""
        # The lock is held until the side files of the old file are renamed too. Else SQLite would
        # apply them to the new file.
        with self._make_lock():
            if self._is_intact():
                return  # another process has replaced the file
            backup_path = quarantine(self._path, "damaged")
            remove_quarantined(self._path, FORMAT, keep=MAX_QUARANTINED)
            create_file(self._path)
        log.warning("%s was damaged; it was moved to %s", self._path, backup_path)

    def _is_intact(self) -> bool:
        try:
            db = open_database(self._path, FORMAT, lock=contextlib.nullcontext(), timeout_s=BUSY_S)
            with contextlib.closing(db):
                if db.execute("pragma quick_check").fetchone() != ("ok",):
                    return False
                for table, types in COLUMNS.items():
                    check_rows(db.execute(f"select * from {table}"), *types)  # noqa: S608 - constants
                return True
        except NotADatabase:
            return False
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                return False
            raise

    def _make_lock(self) -> FileLock:
        return FileLock(self._path.with_suffix(".lock"), timeout_s=BUSY_S)
