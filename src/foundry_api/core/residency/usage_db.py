"""Who uses which model of which service: one small SQLite file for all programs of a home.

Every client has a row for each model it uses, which counts until some time after its last call,
and for nothing once its process is dead. Loading and unloading one model is done under a lease, by
one client at a time. Times are `time.monotonic`'s, which all processes of a machine share.

Every method blocks for milliseconds; call it in a thread. Nothing stays open between two calls.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

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

MAX_QUARANTINED = 3
"""Damaged files to keep."""

BUSY_S = 5.0
"""How long one process waits for another's write, which takes a millisecond."""

MAX_KNOWN_MODELS = 1000
"""Loaded models to remember. Services on ephemeral ports come and go."""

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

FORMAT = FileFormat(
    application_id=0x666F7575,
    version=1,
    schema=SCHEMA,
    unmarked_tables=frozenset({"clients", "uses", "loads", "leases"}),
)
"""`fouu`: tells these files from other SQLite databases."""

COLUMNS: dict[str, tuple[type | tuple[type, ...], ...]] = {
    "clients": (str, int, float, str),
    "uses": (str, str, str, float, float),
    "loads": (str, str, str, str, (float, type(None)), float),
    "leases": (str, str, str, str, str, float),
}

log = logging.getLogger("foundry_api")


class DatabaseUnavailable(Exception):
    """The file cannot be used now. Whoever needs it goes on without it."""


@dataclass(frozen=True, slots=True)
class ClientProcess:
    """A client and its process.

    Attributes:
        client: Tells the clients of one process apart.
        program: For people.
        pid: Its process.
        create_time: When that began, in seconds since the epoch.
    """

    client: str
    program: str
    pid: int
    create_time: float

    @property
    def is_alive(self) -> bool:
        """Whether its process is still running."""
        return state.get_process(self.pid, self.create_time) is not None

    @classmethod
    def current(cls, client: str, program: str) -> ClientProcess:
        """A client of this process."""
        return cls(client, program, os.getpid(), state.get_own_create_time())


@dataclass(frozen=True, slots=True)
class Lease:
    """What came of asking for a lease.

    Attributes:
        token: Names it, to give it back; None if it was not granted.
        holder: Who has it instead.
        users: Other clients that use the model, for which it was not granted.
    """

    token: str | None = None
    holder: ModelUser | None = None
    users: tuple[ModelUser, ...] = ()


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that a client of this home loaded.

    Attributes:
        model: As it was loaded.
        last_used: When any client last called it, or loaded it.
        users: Other clients that use it.
    """

    model: Model
    last_used: float
    users: tuple[ModelUser, ...]


class ModelUsageDb:
    """The file, as one client sees it.

    Args:
        path: Where it is; its directory is made when it is needed.
        owner: The client.
        clock: Seconds of a clock that all processes share.
        lives: Whether a client's process is still running.

    Raises:
        DatabaseUnavailable: By every method: the file can't be read or written now.
    """

    def __init__(
        self,
        path: Path,
        owner: ClientProcess,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        is_alive: Callable[[ClientProcess], bool] = lambda owner: owner.is_alive,
    ) -> None:
        self._path = path
        self._owner = owner
        self._monotonic = monotonic
        self._is_alive = is_alive
        self._recognised: tuple[int, int] | None = None

    def claim(self, service: str, model: str, hold_s: float) -> ModelUser | None:
        """Say that this client uses a model.

        Args:
            service: The service's name in the file.
            model: Id of the model.
            hold_s: Seconds for which that counts.

        Returns:
            Who is unloading the model now, so that nothing was noted; None if it was.
        """
        with self._transaction() as db:
            self._purge_dead_clients(db)
            if unloading := self._find_holder(db, service, model, "unload"):
                return unloading
            self._upsert_uses(db, [(service, model, self._monotonic())], hold_s)
            return None

    def renew(self, service: str, uses: Iterable[tuple[str, float]], hold_s: float) -> set[str]:
        """Say that this client still uses models, and when it last did.

        Args:
            service: The service's name in the file.
            uses: Ids of models, each with the time of its last use.
            hold_s: Seconds after that for which it counts.

        Returns:
            Ids of those that it no longer held, so that they may be out of memory.
        """
        with self._transaction() as db:
            rows = db.execute(
                "select model, until from uses where service = ? and client = ?",
                (service, self._owner.client),
            )
            held_until = dict(check_rows(rows, str, float))
            current = self._monotonic()
            renewed = [
                (service, model, last)
                for model, last in uses
                if held_until.get(model, 0.0) > current
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
        """Ask to be the only one that loads or unloads a model.

        Args:
            service: The service's name in the file.
            model: Id of the model.
            change: What will be done.
            token: Names the lease.
            for_s: Seconds after which it lapses; that of a dead process lapses at once.
            quiet_s: Refuse it if another client holds the model, or used it in so many seconds.
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
                (service, model, token, self._owner.client, change, until),
            )
            return Lease(token)

    def release(self, token: str) -> None:
        """End a lease. One that was never granted, or has ended, is ignored."""
        with self._transaction() as db:
            db.execute("delete from leases where token = ?", (token,))

    def record_loaded(self, service: str, model: Model, hold_s: float) -> None:
        """Note that this client loaded a model, and uses it."""
        with self._transaction() as db:
            current = self._monotonic()
            db.execute(
                "insert or replace into loads values (?, ?, ?, ?, ?, ?)",
                (service, model.id, model.alias, model.catalog, model.size_mb, current),
            )
            db.execute(
                "delete from loads where at > ? or at <= "
                "(select at from loads order by at desc limit 1 offset ?)",
                (current, MAX_KNOWN_MODELS),
            )
            self._upsert_uses(db, [(service, model.id, current)], hold_s)

    def record_unloaded(self, service: str, model: str) -> None:
        """Note that a model is out of memory, so that nobody uses it."""
        with self._transaction() as db:
            for table in ("loads", "uses"):
                db.execute(
                    f"delete from {table} where service = ? and model = ?",  # noqa: S608 - two names of our own
                    (service, model),
                )

    def list_users(self, service: str, model: str) -> tuple[ModelUser, ...]:
        """Other clients that use a model."""
        with self._transaction() as db:
            self._purge_dead_clients(db)
            return self._find_users(db, service, model, 0.0)

    def list_known_models(self, service: str) -> dict[str, KnownModel]:
        """Models that clients of this home loaded, and nobody of them unloaded since, by id."""
        with self._transaction() as db:
            self._purge_dead_clients(db)
            rows = db.execute(
                "select model, alias, catalog, size_mb, max(at, coalesce((select max(last) from "
                "uses where uses.service = loads.service and uses.model = loads.model), at)) "
                "from loads where service = ?",
                (service,),
            )
            return {
                row[0]: KnownModel(
                    _parse_model(row), row[4], self._find_users(db, service, row[0], 0.0)
                )
                for row in check_rows(rows, str, str, str, (float, type(None)), float)
            }

    def unregister(self) -> None:
        """Forget this client: it uses nothing any more."""
        with self._transaction() as db:
            self._remove_client(db, self._owner.client)

    def _upsert_uses(
        self, db: sqlite3.Connection, uses: Sequence[tuple[str, str, float]], hold_s: float
    ) -> None:
        self._register_client(db)
        client = self._owner.client
        db.executemany(
            "insert or replace into uses values (?, ?, ?, ?, ?)",
            [(service, model, client, last, last + hold_s) for service, model, last in uses],
        )

    def _register_client(self, db: sqlite3.Connection) -> None:
        owner = self._owner
        db.execute(
            "insert or ignore into clients values (?, ?, ?, ?)",
            (owner.client, owner.pid, owner.create_time, owner.program),
        )

    def _find_holder(
        self, db: sqlite3.Connection, service: str, model: str, change: Change | None = None
    ) -> ModelUser | None:
        """Which other client is changing a model now. One client does not do two things at once."""
        row = db.execute(
            "select program, pid from leases join clients using (client) where service = ? "
            "and model = ? and client <> ? and until > ? and change = coalesce(?, change)",
            (service, model, self._owner.client, self._monotonic(), change),
        ).fetchone()
        if row is None:
            return None
        program, pid = check_row(row, str, int)
        return ModelUser(program=program, pid=pid, last_used_s=0.0)

    def _find_users(
        self, db: sqlite3.Connection, service: str, model: str, quiet_s: float
    ) -> tuple[ModelUser, ...]:
        current = self._monotonic()
        rows = db.execute(
            "select program, pid, last from uses join clients using (client) where service = ? "
            "and model = ? and client <> ? and (until > ? or last > ?) order by last desc",
            (service, model, self._owner.client, current, current - quiet_s),
        )
        return tuple(
            ModelUser(program=program, pid=pid, last_used_s=current - last)
            for program, pid, last in check_rows(rows, str, int, float)
        )

    def _purge_dead_clients(self, db: sqlite3.Connection) -> None:
        rows = db.execute(
            "select client, program, pid, create_time from clients where client <> ?",
            (self._owner.client,),
        )
        for owner in [ClientProcess(*row) for row in check_rows(rows, str, str, int, float)]:
            if not self._is_alive(owner):
                self._remove_client(db, owner.client)

    @staticmethod
    def _remove_client(db: sqlite3.Connection, client: str) -> None:
        for table in ("uses", "leases", "clients"):
            db.execute(
                f"delete from {table} where client = ?",  # noqa: S608 - three names of our own
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
                self._discard()  # its header is whole, so opening it did not tell
            raise DatabaseUnavailable(f"{self._path}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
        try:
            return self._connect()
        except NotADatabase:
            pass  # nobody but this program has a file of this name here: it is a damaged one
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
            recognised=self._recognised,
        )
        self._recognised = get_file_identity(self._path)
        try:
            # What a crash of the machine would lose is about processes that it ended as well.
            db.execute("pragma synchronous = off")
        except BaseException:
            db.close()
            raise
        return db

    def _discard(self) -> None:
        """Set a damaged file aside, if that is possible; the error that is raised tells of it."""
        with contextlib.suppress(sqlite3.Error, OSError, ForeignFile, OtherFormat, FoundryError):
            self._quarantine()

    def _quarantine(self) -> None:
        """Begin anew beside a damaged file. Of processes that find it, one does that.

        It holds the lock until what belonged to the old file is gone, so that nobody takes the
        first words of a new one for those of the old.
        """
        with self._make_lock():
            if self._is_intact():
                return  # another process was faster
            aside = quarantine(self._path, "damaged")
            remove_quarantined(self._path, FORMAT, keep=MAX_QUARANTINED)
            create_file(self._path)
        log.warning("%s was damaged; it is now %s", self._path, aside)

    def _is_intact(self) -> bool:
        """Whether the file is whole. Under the lock."""
        try:
            db = open_database(self._path, FORMAT, lock=contextlib.nullcontext(), timeout_s=BUSY_S)
            with contextlib.closing(db):
                if db.execute("pragma quick_check").fetchone() != ("ok",):
                    return False
                for table, types in COLUMNS.items():
                    check_rows(db.execute(f"select * from {table}"), *types)  # noqa: S608 - a name of our own
                return True
        except NotADatabase:
            return False
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                return False
            raise

    def _make_lock(self) -> FileLock:
        return FileLock(self._path.with_suffix(".lock"), timeout_s=BUSY_S)


def _parse_model(row: tuple[Any, ...]) -> Model:
    return Model(id=row[0], alias=row[1], catalog=row[2], cached=True, loaded=True, size_mb=row[3])
