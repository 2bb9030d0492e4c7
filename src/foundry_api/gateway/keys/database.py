"""The database of the keys: a SQLite file and a pepper in the gateway's directory.

The command line and the gateway's management change it; several processes may do so at once. Every
method blocks, so call it in a thread. A damaged file is reported and left as it is: an empty one in
its place would lock out every client.
"""

from __future__ import annotations

import hmac
import os
import sqlite3
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import msgspec

from foundry_api.gateway.keys.clock import LatestTime
from foundry_api.gateway.keys.errors import KeyNotFound, KeyStorageFailed
from foundry_api.gateway.keys.options import check_key_name
from foundry_api.gateway.keys.pepper import create_pepper, make_pepper_private, read_pepper
from foundry_api.gateway.keys.token import KEY_PREFIX, TokenHasher, make_id, make_token
from foundry_api.gateway.keys.types import ApiKey, NewKey
from foundry_api.storage.database_files import FileFormat, get_file_identity
from foundry_api.storage.lock import FileLock, LockTimeout
from foundry_api.storage.paths import PRIVATE_DIRECTORY
from foundry_api.storage.sqlite import (
    PRIMARY_CODE_MASK,
    DamagedFile,
    ForeignFile,
    OtherFormat,
    check_row,
    check_rows,
    closing_on_error,
    is_damage,
    make_durable,
    open_database,
)
from foundry_api.types.errors import ConfigurationError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from foundry_api.gateway.keys.types import KeyChanges

__all__ = ["KeyDatabase", "KeyReader", "KeySnapshot", "StoredDigest"]

BUSY_TIMEOUT_S = 5.0
# Of the gateway's look for changes, which repeats anyway.
READ_TIMEOUT_S = 1.0
MAX_EARLIER_TOKENS = 8

# The digest of the current token has no end. `pepper` has one row.
SCHEMA = """
create table keys (id text primary key, name text not null unique, facts text not null)
    without rowid;
create table digests (digest blob primary key, key_id text not null, until real) without rowid;
create table pepper (check_value blob not null);
"""
# The application id is `foug`.
FORMAT = FileFormat(application_id=0x666F7567, version=1, schema=SCHEMA)

_DECODER = msgspec.json.Decoder(ApiKey)
_ENCODER = msgspec.json.Encoder(order="deterministic")


class StoredDigest(msgspec.Struct, frozen=True):
    """A digest of a token, and when its time of grace ends; None for the current token."""

    digest: bytes
    key_id: str
    until: float | None


class KeySnapshot(msgspec.Struct, frozen=True):
    """What the database contains at one moment."""

    keys: dict[str, ApiKey]
    digests: tuple[StoredDigest, ...]
    hasher: TokenHasher | None  # None before there are keys


class KeyDatabase:
    """The keys in a directory, which is created when the first key is.

    Methods raise KeyNotFound, KeyStorageFailed, ConfigurationError for files that are not ours or
    a pepper that does not fit, and InvalidRequest.
    """

    def __init__(
        self,
        directory: Path,
        *,
        pepper_file: Path | None = None,
        wall_clock: Callable[[], float] = time.time,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self.path = directory / "keys.db"
        self.pepper_file = pepper_file or directory / "keys.pepper"
        self._has_own_pepper = pepper_file is None
        self._wall_clock = wall_clock
        self._latest_time = LatestTime(directory)
        self._busy_timeout_s = busy_timeout_s

    def now(self) -> float:
        """Return seconds since the epoch, not before a time that a gateway has seen."""
        with _translate_errors(self._latest_time.path, "read"):
            return max(self._wall_clock(), self._latest_time.read())

    def create(self, new: NewKey) -> tuple[ApiKey, str]:
        """Store a new key; return it with its token, which cannot be read later."""
        check_key_name("name", new.name)
        now = self.now()
        with self._transaction() as db:
            hasher = self._get_hasher(db)
            keys = _read_keys(db)
            if any(new.name in {key.name, key.id} for key in keys.values()):
                raise InvalidRequest(
                    f"name is {new.name!r}, which is the name of another key",
                    field="name",
                    hint="Choose another name, or remove that key first.",
                )
            key_id = make_id()
            while key_id in keys or any(key_id == key.name for key in keys.values()):
                key_id = make_id()
            members = msgspec.structs.asdict(new)
            lifetime_s = members.pop("lifetime_s")
            key = ApiKey(
                id=key_id,
                created_at=now,
                expires_at=None if lifetime_s is None else now + lifetime_s,
                **members,
            )
            token = make_token(key_id)
            db.execute("insert into keys values (?, ?, ?)", (key_id, key.name, _encode(key)))
            _insert_digest(db, hasher.digest(token), key_id)
        return key, token

    def list(self) -> tuple[ApiKey, ...]:
        """Return all keys, oldest first, also those that are expired or revoked."""
        if not os.path.lexists(self.path):  # reading creates nothing
            return ()
        with _translate_errors(self.path, "read"), closing(self.connect()) as db:
            keys = _read_keys(db)
        return tuple(sorted(keys.values(), key=lambda key: (key.created_at, key.id)))

    def get(self, id_or_name: str) -> ApiKey:
        return _find(self.list(), id_or_name)

    def rotate(self, id_or_name: str, *, grace_s: float) -> tuple[ApiKey, str]:
        """Give a key a new token, and end its earlier ones after `grace_s` seconds at the latest.

        Without grace they end at once, and the running streams of the key with them.
        """
        now = self.now()
        ends_at = now + grace_s
        with self._transaction() as db:
            hasher = self._get_hasher(db)
            key = _find_active(_read_keys(db).values(), id_or_name, now)
            # Also of earlier rotations: one whose output was lost must not end the token in use.
            db.execute(
                "update digests set until = min(coalesce(until, ?1), ?1) where key_id = ?2",
                (ends_at, key.id),
            )
            db.execute("delete from digests where key_id = ? and until <= ?", (key.id, now))
            row = db.execute(
                "select count(*), max(until) from digests where key_id = ?", (key.id,)
            ).fetchone()
            count, grace_until = check_row(row, int, (float, type(None)))
            if count > MAX_EARLIER_TOKENS:
                raise InvalidRequest(
                    f"the key {key.name!r} has {count} earlier tokens that are valid still",
                    hint="End them with --grace 0, or wait until they end.",
                )
            key = msgspec.structs.replace(key, grace_until=grace_until)
            token = make_token(key.id)
            _update_key(db, key)
            _insert_digest(db, hasher.digest(token), key.id)
        return key, token

    def update(self, id_or_name: str, changes: KeyChanges) -> ApiKey:
        """Change what a key may do. Its tokens stay."""
        now = self.now()
        with self._transaction() as db:
            key = _find_active(_read_keys(db).values(), id_or_name, now)
            key = msgspec.structs.replace(key, **changes.get_members(now))
            _update_key(db, key)
        return key

    def revoke(self, id_or_name: str) -> ApiKey:
        """End all tokens of a key at once. The key stays in the list."""
        with self._transaction() as db:
            key = _find(_read_keys(db).values(), id_or_name)
            if key.revoked_at is None:
                key = msgspec.structs.replace(key, revoked_at=self.now(), grace_until=None)
                _update_key(db, key)
                db.execute("delete from digests where key_id = ?", (key.id,))
        return key

    def remove(self, id_or_name: str) -> ApiKey:
        """Delete a key, which also ends its tokens."""
        with self._transaction() as db:
            key = _find(_read_keys(db).values(), id_or_name)
            db.execute("delete from digests where key_id = ?", (key.id,))
            db.execute("delete from keys where id = ?", (key.id,))
        return key

    def find_hasher(self, db: sqlite3.Connection) -> TokenHasher | None:
        """Return the hasher of the tokens; None before there are keys.

        Raises ConfigurationError if the pepper is not that of the keys.
        """
        pepper = read_pepper(self.pepper_file)
        if pepper is not None:
            if self._has_own_pepper:
                make_pepper_private(self.pepper_file)
            hasher = TokenHasher(pepper)
            row = db.execute("select check_value from pepper").fetchone()
            if row is not None and hmac.compare_digest(
                check_row(row, bytes)[0], hasher.compute_check_value()
            ):
                return hasher
        (count,) = check_row(db.execute("select count(*) from keys").fetchone(), int)
        if count:
            problem = "is missing or empty" if pepper is None else "is not that of the keys"
            raise ConfigurationError(
                f"the pepper {self.pepper_file} {problem}; there are keys in {self.path}",
                hint="Restore it: without it no token can be checked.",
            )
        return None

    def create_directory(self) -> None:
        """Create the directory, for this user only, unless it exists."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)

    def connect(self, *, timeout_s: float | None = None) -> sqlite3.Connection:
        """Open the file; raises the errors of SQLite and the file system."""
        db = open_database(
            self.path,
            FORMAT,
            lock=FileLock(
                self.path.with_name(f"{self.path.name}.lock"), timeout_s=self._busy_timeout_s
            ),
            timeout_s=self._busy_timeout_s if timeout_s is None else timeout_s,
        )
        with closing_on_error(db):
            make_durable(db)  # a revocation stays
        return db

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with _translate_errors(self.path, "changed"):
            self.create_directory()
            with closing(self.connect()) as db:
                db.execute("begin immediate")
                try:
                    yield db
                    db.execute("commit")
                finally:
                    if db.in_transaction:
                        db.execute("rollback")

    def _get_hasher(self, db: sqlite3.Connection) -> TokenHasher:
        """Return the hasher; before there are keys, any pepper will do, or a new one.

        Needs a transaction that writes, which makes other processes wait.
        """
        if hasher := self.find_hasher(db):
            return hasher
        pepper = read_pepper(self.pepper_file)
        if pepper is None:
            if not self._has_own_pepper:
                raise ConfigurationError(
                    f"the pepper's file {self.pepper_file} is missing or empty",
                    hint="Create it, such as with `openssl rand -hex 32`, for this user only.",
                )
            pepper = create_pepper(self.pepper_file)
        hasher = TokenHasher(pepper)
        db.execute("delete from pepper")
        db.execute("insert into pepper values (?)", (hasher.compute_check_value(),))
        return hasher


class KeyReader:
    """Reads the keys again when they have changed. Its connection stays open."""

    def __init__(self, database: KeyDatabase) -> None:
        self._database = database
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._openings = 0

    def read(self, known: tuple[int, int] | None) -> tuple[tuple[int, int], KeySnapshot] | None:
        """Return the revision and the keys; None if the revision is the `known` one."""
        path = self._database.path
        try:
            with _translate_errors(path, "read"):
                if not self._openings:
                    self._database.create_directory()
                elif not os.path.lexists(path):  # opening it would create an empty one
                    raise FileNotFoundError("the file is missing")  # noqa: TRY301 - as others
                if self._connection is None or get_file_identity(path) != self._identity:
                    self.close()
                    self._connection = self._database.connect(timeout_s=READ_TIMEOUT_S)
                    self._identity = get_file_identity(path)
                    self._openings += 1
                return self._read(self._connection, known)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _read(
        self, db: sqlite3.Connection, known: tuple[int, int] | None
    ) -> tuple[tuple[int, int], KeySnapshot] | None:
        # Before the keys are read: a change in between is noticed the next time. It counts changes
        # of other connections, and says nothing about those before this one was opened.
        (version,) = check_row(db.execute("pragma data_version").fetchone(), int)
        revision = (self._openings, version)
        if revision == known:
            return None
        db.execute("begin")
        try:
            keys = _read_keys(db)
            rows = db.execute("select digest, key_id, until from digests").fetchall()
            hasher = self._database.find_hasher(db)
        finally:
            if db.in_transaction:
                db.execute("rollback")
        digests = tuple(
            StoredDigest(*row) for row in check_rows(rows, bytes, str, (float, type(None)))
        )
        if any(stored.key_id not in keys for stored in digests):
            raise DamagedFile("a token has no key")
        return revision, KeySnapshot(keys, digests, hasher)


@contextmanager
def _translate_errors(path: Path, action: str) -> Generator[None]:
    """Raise the errors of SQLite and the file system as ours."""
    try:
        yield
    except (ForeignFile, OtherFormat) as error:
        raise ConfigurationError(
            f"{path} is not a database of keys of this program: {error}",
            hint="Name another directory with --dir.",
        ) from error
    except (sqlite3.Error, OSError, LockTimeout) as error:
        if is_damage(error):
            raise KeyStorageFailed(
                f"the keys in {path} are damaged: {error}",
                hint="Restore the file from a backup, or move it away and create new keys.",
            ) from error
        raise KeyStorageFailed(
            f"the keys in {path} cannot be {action}: {_describe(error)}"
        ) from error


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    code = getattr(error, "sqlite_errorcode", None) or 0
    if code & PRIMARY_CODE_MASK == sqlite3.SQLITE_BUSY:
        return "another process keeps it locked"
    return str(error)


def _find(keys: Iterable[ApiKey], id_or_name: str) -> ApiKey:
    for key in keys:
        if id_or_name in {key.id, key.name}:  # no name is the id of another key
            return key
    is_token = id_or_name.startswith(KEY_PREFIX)  # which the message must not show
    raise KeyNotFound(f"no key is named {f'{KEY_PREFIX}…' if is_token else repr(id_or_name)}")


def _find_active(keys: Iterable[ApiKey], id_or_name: str, now: float) -> ApiKey:
    key = _find(keys, id_or_name)
    if (state := key.get_state(now)) != "active":
        raise InvalidRequest(f"the key {key.name!r} is {state}", hint="Create another key instead.")
    return key


def _read_keys(db: sqlite3.Connection) -> dict[str, ApiKey]:
    rows = check_rows(db.execute("select id, facts from keys"), str, str)
    try:
        keys = {key_id: _DECODER.decode(facts) for key_id, facts in rows}
    except msgspec.MsgspecError as error:
        raise DamagedFile(f"a key cannot be read: {error}") from error
    if any(key_id != key.id for key_id, key in keys.items()):
        raise DamagedFile("a key has the id of another")
    return keys


def _encode(key: ApiKey) -> str:
    return _ENCODER.encode(key).decode()


def _update_key(db: sqlite3.Connection, key: ApiKey) -> None:
    db.execute("update keys set facts = ? where id = ?", (_encode(key), key.id))


def _insert_digest(db: sqlite3.Connection, digest: bytes, key_id: str) -> None:
    db.execute("insert into digests values (?, ?, null)", (digest, key_id))
