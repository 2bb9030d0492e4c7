"""Open the SQLite databases of this package, and recognize damaged and foreign files.

A path of the user may name anything: a text, a directory, a pipe, another program's database. A
file without our application id is refused, and is neither written, renamed nor given other
permissions. Damaged databases are renamed, never deleted.
"""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from foundry_api.storage.database_files import (
    get_file_identity,
    get_side_path,
    get_size,
    has_own_header,
    make_private,
    move_foreign_side_files,
)
from foundry_api.storage.private_file import create_file

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from foundry_api.storage.database_files import FileFormat

__all__ = [
    "PRIMARY_CODE_MASK",
    "DamagedFile",
    "ForeignFile",
    "NotADatabase",
    "OtherFormat",
    "check_not_foreign",
    "check_row",
    "check_rows",
    "closing_on_error",
    "is_damage",
    "make_durable",
    "open_database",
    "open_read_only",
]

OPEN_ATTEMPTS = 5
# The smallest page. SQLite takes a file of one byte for an empty database.
MIN_BYTES = 512

# The bits of an extended result code that contain the primary one.
PRIMARY_CODE_MASK = 0xFF
DAMAGE_CODES = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_MISMATCH,
    # Our statements are constants: if one is invalid, the schema is not the one that we created.
    sqlite3.SQLITE_ERROR,
}
EXTENDED_DAMAGE_CODES = {
    sqlite3.SQLITE_IOERR_SHORT_READ,
    # We look rows up before we insert them, so a table and its index differ.
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
}

FILE_TYPES = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class DamagedFile(sqlite3.DatabaseError):
    """SQLite can read the file, but its content is not what we wrote."""


class ForeignFile(Exception):
    """The file does not belong to this package and must not be changed."""


class NotADatabase(ForeignFile):
    """The file is a regular file, but not an SQLite database."""


class OtherFormat(Exception):
    """Another version of this package wrote the file."""


def is_damage(error: BaseException) -> bool:
    """Whether an error means that the file is damaged, rather than unavailable."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return (
        isinstance(error, DamagedFile)
        or code & PRIMARY_CODE_MASK in DAMAGE_CODES
        or code in EXTENDED_DAMAGE_CODES
    )


def check_row(row: Sequence[Any] | None, *types: type | tuple[type, ...]) -> tuple[Any, ...]:
    """Return a row; raise DamagedFile if it is missing or its values have other types."""
    # SQLite stores a type with each value, so a damaged byte may change the type.
    if row is None or len(row) != len(types):
        raise DamagedFile("a row is missing")
    for value, expected in zip(row, types, strict=True):
        if not isinstance(value, expected):
            raise DamagedFile(f"a value is of another type: {type(value).__name__}")
    return tuple(row)


def check_rows(
    rows: Iterable[Sequence[Any]], *types: type | tuple[type, ...]
) -> list[tuple[Any, ...]]:
    return [check_row(row, *types) for row in rows]


def open_database(
    path: Path,
    file_format: FileFormat,
    *,
    lock: AbstractContextManager[object],
    timeout_s: float,
    check_same_thread: bool = True,
    known_identity: tuple[int, int] | None = None,
) -> sqlite3.Connection:
    """Open a database for writing; create it if it is missing or empty.

    Raises ForeignFile, OtherFormat, and sqlite3.Error or OSError if the file is damaged (see
    `is_damage`) or unavailable. `lock` is held while the tables are created. `known_identity` is
    the `get_file_identity` of an earlier open, which saves checking the file.
    """
    for _ in range(OPEN_ATTEMPTS):
        create_file(path)
        identity = get_file_identity(path)
        is_known = identity is not None and identity == known_identity
        try:
            if not is_known:
                _check_file(path, file_format, timeout_s)
            move_foreign_side_files(path, lock)
            database = _connect(path, "mode=rw", timeout_s, check_same_thread=check_same_thread)
            with closing_on_error(database):
                if is_known:  # reads from the WAL as well, before the identity is checked again
                    database.execute("pragma user_version").fetchone()
                else:
                    _ensure_schema(database, path, file_format, lock)
        except (sqlite3.Error, ForeignFile, OtherFormat) as error:
            # If another process has replaced the file meanwhile, one check saw the old file and the
            # next one the new file, which is empty at first. Between the two there is none.
            is_replaced = identity is None or get_file_identity(path) != identity
            if not (is_replaced or _has_lost_journal(error)):
                raise
            continue
        # Another process may have quarantined the file meanwhile. SQLite would then use the new
        # file's WAL for the old file.
        if get_file_identity(path) == identity:
            return database
        database.close()
    raise sqlite3.OperationalError("other processes keep replacing it, or its journal")


def open_read_only(
    path: Path, file_format: FileFormat, *, timeout_s: float
) -> sqlite3.Connection | None:
    """Open a database for reading, without creating any file; None if it is missing or empty."""
    if _check_file(path, file_format, timeout_s) is None or not get_size(path):
        return None
    # Without a WAL no process is writing. SQLite would create one and leave it behind.
    options = "mode=ro" if get_size(get_side_path(path, "-wal")) else "mode=ro&immutable=1"
    database = _connect(path, options, timeout_s)
    with closing_on_error(database):
        if _has_schema(database, path, file_format):
            return database
    database.close()
    return None


@contextmanager
def closing_on_error(database: sqlite3.Connection) -> Generator[None]:
    """Close a database if the block fails."""
    # As long as something refers to the error, it would stay open, and Windows would not rename it.
    try:
        yield
    except BaseException:
        database.close()
        raise


def make_durable(database: sqlite3.Connection) -> None:
    """Let what is committed survive a loss of power; some builds of SQLite default to less."""
    database.execute("pragma synchronous = full")
    database.execute("pragma fullfsync = on")  # macOS: on the disk, not in its cache


def check_not_foreign(path: Path, file_format: FileFormat, *, timeout_s: float) -> None:
    """Raise ForeignFile if the file exists and is not ours. It may be damaged or missing."""
    try:
        _check_file(path, file_format, timeout_s)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise


class _Connection(sqlite3.Connection):
    """Raises DamagedFile for a damaged name in the schema, which sqlite3 cannot decode."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def close(self) -> None:
        """Close the file, also if a query was not read to its end."""
        # Otherwise it stays open, with its locks, as long as anything refers to the cursor, such as
        # the traceback of the error by which the damage was found. Windows could not rename it.
        for cursor in tuple(self._cursors):
            cursor.close()
        super().close()

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        try:
            cursor = super().execute(sql, parameters)
        except UnicodeDecodeError as error:
            raise DamagedFile("a name in its schema is not UTF-8") from error
        self._cursors.add(cursor)
        return cursor

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        try:
            return super().executemany(sql, parameters)
        except UnicodeDecodeError as error:
            raise DamagedFile("a name in its schema is not UTF-8") from error

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        try:
            return super().executescript(sql_script)
        except UnicodeDecodeError as error:
            raise DamagedFile("a name in its schema is not UTF-8") from error


def _connect(
    path: Path, options: str, timeout_s: float, *, check_same_thread: bool = True
) -> sqlite3.Connection:
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        timeout=timeout_s,
        isolation_level=None,
        check_same_thread=check_same_thread,
        factory=_Connection,
        uri=True,
    )
    database.text_factory = _decode_text
    return database


def _decode_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DamagedFile("a text is not UTF-8") from error


def _ensure_schema(
    database: sqlite3.Connection,
    path: Path,
    file_format: FileFormat,
    lock: AbstractContextManager[object],
) -> None:
    if _has_schema(database, path, file_format):
        make_private(path)
        if file_format.former_application_id:
            _update_application_id(database, file_format)
        return
    # The lock, because SQLite fails at once, without a wait, when two processes turn on write-ahead
    # logging at the same time.
    with lock:
        if _has_schema(database, path, file_format):  # another process was faster
            return
        make_private(path)
        # The application id first, so that every file with content has it.
        database.executescript(
            f"pragma application_id = {file_format.application_id};"
            "pragma journal_mode = wal;"
            f"begin immediate; {file_format.schema}"
            f"pragma user_version = {file_format.version}; commit;"
        )


def _has_lost_journal(error: BaseException) -> bool:
    """Whether the journal of a new file was deleted by somebody else who has just opened it."""
    # SQLite deletes the journal of an empty file, and for Windows the second one to do so fails.
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_DELETE_NOENT


def _update_application_id(database: sqlite3.Connection, file_format: FileFormat) -> None:
    """Give a file with a former application id the present one."""
    (application,) = database.execute("pragma application_id").fetchone()
    if application != file_format.application_id:
        database.execute(f"pragma application_id = {file_format.application_id}")


def _has_schema(database: sqlite3.Connection, path: Path, file_format: FileFormat) -> bool:
    """Whether the database has the tables of the format; False if it is empty.

    Raises ForeignFile or OtherFormat for a database with other content.
    """
    try:
        application, version, tables = _read_header(database)
    except sqlite3.DatabaseError as error:
        if is_damage(error) and not has_own_header(path, file_format):
            raise NotADatabase("it is not a database of this program") from error
        raise
    is_own = application == 0 or file_format.has_id(application)
    if is_own and not version and not tables:
        return False
    is_former = application == file_format.former_application_id
    unmarked = is_former and tables and tables == file_format.unmarked_tables
    if application != file_format.application_id and not unmarked:
        raise ForeignFile("it is a database of another program")
    if version != file_format.version:
        raise OtherFormat(f"it is of format {version}, not {file_format.version}")
    return True


def _read_header(database: sqlite3.Connection) -> tuple[int, int, frozenset[str]]:
    """Return application id, version and tables."""
    # In one transaction, because another process may be creating the tables.
    database.execute("begin")
    try:
        (application,) = database.execute("pragma application_id").fetchone()
        (version,) = database.execute("pragma user_version").fetchone()
        tables = _list_tables(database)
    finally:
        if database.in_transaction:  # some errors end the transaction
            database.execute("rollback")
    return application, version, tables


def _list_tables(database: sqlite3.Connection) -> frozenset[str]:
    names = database.execute("select name from sqlite_master where type = 'table'")
    return frozenset(str(name) for (name,) in names)


def _check_file(path: Path, file_format: FileFormat, timeout_s: float) -> tuple[int, int] | None:
    """Raise ForeignFile if the file is not ours; return its identity, or None if missing."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        # Opening a pipe would block.
        kind = next((name for is_type, name in FILE_TYPES if is_type(status.st_mode)), None)
        raise ForeignFile(f"it is {kind or 'something else'}, not a file")
    if 0 < status.st_size < MIN_BYTES:
        raise NotADatabase("it is not a database of this program")
    if status.st_size:
        # Just opening another program's database may change it: SQLite recovers what a crash left
        # in its side files. With `immutable` it ignores them.
        with closing(_connect(path, "mode=ro&immutable=1", timeout_s)) as database:
            # Without this, SQLite finds a file damaged whose header counts more pages than it has.
            # While another process is in the middle of a checkpoint, or after it was killed there,
            # the others are in the WAL.
            database.execute("pragma writable_schema = on")
            _check_application_id(database, path, file_format)
    return status.st_dev, status.st_ino


def _check_application_id(
    database: sqlite3.Connection, path: Path, file_format: FileFormat
) -> None:
    """Raise ForeignFile for a file with content and another application id."""
    # Without any table it is foreign too: its tables may still be in its WAL, and we write our id
    # first.
    try:
        (application,) = database.execute("pragma application_id").fetchone()
        if file_format.has_id(application):  # the tables are compared when it is open
            return
        tables = _list_tables(database)
    except sqlite3.DatabaseError as error:
        if is_damage(error) and not has_own_header(path, file_format):
            raise NotADatabase("it is not a database of this program") from error
        raise
    if not tables or tables != file_format.unmarked_tables:
        raise ForeignFile("it is a database of another program")
    if application:
        raise NotADatabase("it has our tables, and the id of another program")
