"""SQLite files of this package: recognised before anything is changed, damage raised as one error.

A path may name anything: a text, a directory, a pipe, another program's database. What is not
recognised by its application id is refused, and neither written, renamed nor given other
permissions. A file of ours that is damaged is renamed, never deleted.

Nothing here opens a database's file beside SQLite while it may be in use: closing it would free
the locks that SQLite holds on it for other connections of this process
(https://www.sqlite.org/howtocorrupt.html, section "POSIX advisory locks canceled by a separate
thread doing close()").
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import stat
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foundry_api.storage.private_file import create_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

__all__ = [
    "PRIMARY_CODE_MASK",
    "DamagedFile",
    "FileFormat",
    "ForeignFile",
    "NotADatabase",
    "OtherFormat",
    "check_not_foreign",
    "check_row",
    "check_rows",
    "get_file_identity",
    "is_damage",
    "list_quarantined",
    "open_database",
    "open_read_only",
    "quarantine",
    "remove_quarantined",
]


PRIMARY_CODE_MASK = 0xFF
"""The bits of an extended result code that say what kind of error it is."""

DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_MISMATCH,
    # Our statements are constants: where one makes no sense, the schema is not the one we wrote.
    sqlite3.SQLITE_ERROR,
}
DAMAGE_EXTENDED = {
    sqlite3.SQLITE_IOERR_SHORT_READ,
    # Rows are looked up before they are written: a table and its index differ.
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
}


class DamagedFile(sqlite3.DatabaseError):
    """The file holds what we never wrote, though SQLite itself can read it."""


def is_damage(error: BaseException) -> bool:
    """Whether a file is damaged, rather than out of reach."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return (
        isinstance(error, DamagedFile)
        or code & PRIMARY_CODE_MASK in DAMAGE
        or code in DAMAGE_EXTENDED
    )


def check_row(row: Sequence[Any] | None, *types: type | tuple[type, ...]) -> tuple[Any, ...]:
    """Return a row whose values have the types that were written.

    SQLite keeps a type with each value, so a damaged byte changes it.

    Raises:
        DamagedFile: They have not, or there is no row.
    """
    if row is None or len(row) != len(types):
        raise DamagedFile("a row is missing")
    for value, expected in zip(row, types, strict=True):
        if not isinstance(value, expected):
            raise DamagedFile(f"a value is of another type: {type(value).__name__}")
    return tuple(row)


def check_rows(
    rows: Iterable[Sequence[Any]], *types: type | tuple[type, ...]
) -> list[tuple[Any, ...]]:
    """Return rows whose values have the types that were written.

    Raises:
        DamagedFile: They have not.
    """
    return [check_row(row, *types) for row in rows]


PRIVATE_FILE = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO

MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100
APPLICATION_ID = slice(68, 72)
MIN_BYTES = 512
"""The smallest page. SQLite takes a file of one byte for an empty database."""

LOG_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9"
INDEX_BEGINNING, INDEX_STEP = 3, 4096
"""Sizes of a shared-memory index: SQLite cuts it to 3 bytes, and lets it grow by pages."""

SIDE_SUFFIXES = ("-wal", "-shm", "-journal")

OPEN_ATTEMPTS = 5

KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

log = logging.getLogger("foundry_api")


class ForeignFile(Exception):
    """What is there belongs to something else; it is not ours to touch."""


class NotADatabase(ForeignFile):
    """It is a regular file, but no SQLite database."""


class OtherFormat(Exception):
    """The file was written by another version of this package."""


@dataclass(frozen=True, slots=True)
class FileFormat:
    """What tells one kind of our files from all others.

    Attributes:
        application_id: SQLite's number for the program that a file belongs to.
        version: Of the schema, kept as `user_version`.
        schema: Statements that make the tables, without a transaction of their own.
        unmarked_tables: The tables of a file from before it had an application id.
    """

    application_id: int
    version: int
    schema: str
    unmarked_tables: frozenset[str] = frozenset()


class _Connection(sqlite3.Connection):
    """Raises damaged names in a schema as damage; Python's own sqlite3 can't decode them."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        try:
            return super().execute(sql, parameters)
        except UnicodeDecodeError as error:
            raise DamagedFile("a name in its schema is not UTF-8") from error

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


def open_database(
    path: Path,
    file_format: FileFormat,
    *,
    lock: AbstractContextManager[object],
    timeout_s: float,
    check_same_thread: bool = True,
    recognised: tuple[int, int] | None = None,
) -> sqlite3.Connection:
    """Open a file of ours for writing, made and laid out if it is missing or empty.

    Args:
        path: The file; its directory has to be there.
        file_format: What it has to be.
        lock: Held by the one process that lays the file out.
        timeout_s: How long a statement waits for another process's.
        check_same_thread: Whether only the thread that opened it may use it.
        recognised: The `get_file_identity` of an earlier opening, which saves a millisecond.

    Raises:
        ForeignFile: Something else is there.
        OtherFormat: Another version of this package wrote it.
        sqlite3.Error: It is damaged (see `is_damage`), or cannot be used now.
        OSError: It cannot be used now.
    """
    for _ in range(OPEN_ATTEMPTS):
        create_file(path)
        identity = get_file_identity(path)
        is_known = identity is not None and identity == recognised
        if not is_known:
            identity = _check_file(path, file_format, timeout_s)
        _protect_side_files(path)
        try:
            database = _connect(path, "mode=rw", timeout_s, check_same_thread=check_same_thread)
            try:
                if is_known:  # what opens the log as well, before the last look
                    database.execute("pragma user_version").fetchone()
                else:
                    _prepare(database, path, file_format, lock)
            except BaseException:
                database.close()
                raise
        except sqlite3.OperationalError:
            if get_file_identity(path) == identity:
                raise
            continue
        # Another process may have set the file aside while it was opened. Its log would then be
        # taken for this one's.
        if get_file_identity(path) == identity:
            return database
        database.close()
    raise sqlite3.OperationalError("other processes keep replacing it")


def open_read_only(
    path: Path, file_format: FileFormat, *, timeout_s: float
) -> sqlite3.Connection | None:
    """Open a file of ours for reading; None if it is missing or empty. Nothing is created.

    Raises:
        ForeignFile, OtherFormat, sqlite3.Error, OSError: See `open_database`.
    """
    if _check_file(path, file_format, timeout_s) is None or not _get_size(path):
        return None
    # Without a log nobody is writing. SQLite would make one, and leave it there.
    options = "mode=ro" if _get_size(_get_side_path(path, "-wal")) else "mode=ro&immutable=1"
    database = _connect(path, options, timeout_s)
    try:
        if _is_laid_out(database, path, file_format):
            return database
    except BaseException:
        database.close()
        raise
    database.close()
    return None


def check_not_foreign(path: Path, file_format: FileFormat, *, timeout_s: float) -> None:
    """Refuse a file that is not ours, damaged or not; none at all is none of another's.

    Raises:
        ForeignFile: Something else is there.
        sqlite3.Error, OSError: It cannot be looked at now.
    """
    try:
        _check_file(path, file_format, timeout_s)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise


def get_file_identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one of the same name; None without one."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def quarantine(path: Path, reason: str) -> Path:
    """Rename a damaged file of ours, with its side files. Call it under a lock.

    Args:
        path: The file.
        reason: Its new name ends so, with a number.

    Returns:
        Its new path.

    Raises:
        OSError: It cannot be renamed.
    """
    taken = _find_quarantine_names(path)
    number = 1 + max((_parse_number(existing) for existing in taken), default=0)
    aside = path.with_name(f"{path.name}.{reason}-{number}")
    # The file itself first: who opens it meanwhile sees that it is another one.
    for side in ("", *SIDE_SUFFIXES):
        with suppress(FileNotFoundError):
            _get_side_path(path, side).replace(_get_side_path(aside, side))
    return aside


def list_quarantined(path: Path, file_format: FileFormat) -> list[Path]:
    """List what was set aside and is a file of ours, oldest first."""
    return [
        candidate
        for candidate in _find_quarantine_names(path)
        if _has_our_header(candidate, file_format)
    ]


def remove_quarantined(path: Path, file_format: FileFormat, *, keep: int = 0) -> None:
    """Delete files of ours that were set aside, but for the newest.

    Raises:
        OSError: One cannot be deleted.
    """
    quarantined = list_quarantined(path, file_format)
    for aside in quarantined[: max(0, len(quarantined) - keep)]:
        for side in SIDE_SUFFIXES:
            if _is_side_file(_get_side_path(aside, side), side):
                _get_side_path(aside, side).unlink(missing_ok=True)
        aside.unlink(missing_ok=True)


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


def _prepare(
    database: sqlite3.Connection,
    path: Path,
    file_format: FileFormat,
    lock: AbstractContextManager[object],
) -> None:
    if _is_laid_out(database, path, file_format):
        _make_private(path)
        return
    with lock:
        if _is_laid_out(database, path, file_format):  # another process was faster
            return
        _make_private(path)
        # The id first, so that no file with content is without it. SQLite refuses, without any
        # wait, one of two processes that turn on write-ahead logging at once.
        database.executescript(
            f"pragma application_id = {file_format.application_id};"
            "pragma journal_mode = wal;"
            f"begin immediate; {file_format.schema}"
            f"pragma user_version = {file_format.version}; commit;"
        )


def _is_laid_out(database: sqlite3.Connection, path: Path, file_format: FileFormat) -> bool:
    """Whether a file of ours has its tables; one without any content may become ours."""
    try:
        application, version, tables = _read_marks(database)
    except sqlite3.DatabaseError as error:
        if is_damage(error) and not _has_our_header(path, file_format):
            raise NotADatabase("it is not a database of this program") from error
        raise
    if application in {0, file_format.application_id} and not version and not tables:
        return False
    unmarked = application == 0 and tables and tables == file_format.unmarked_tables
    if application != file_format.application_id and not unmarked:
        raise ForeignFile("it is a database of another program")
    if version != file_format.version:
        raise OtherFormat(f"it is of format {version}, not {file_format.version}")
    return True


def _read_marks(database: sqlite3.Connection) -> tuple[int, int, frozenset[str]]:
    """What tells whose file it is, all as of one moment: another process may be laying it out."""
    database.execute("begin")
    try:
        (application,) = database.execute("pragma application_id").fetchone()
        (version,) = database.execute("pragma user_version").fetchone()
        tables = _list_tables(database)
    finally:
        if database.in_transaction:  # some failures end it by themselves
            database.execute("rollback")
    return application, version, tables


def _list_tables(database: sqlite3.Connection) -> frozenset[str]:
    names = database.execute("select name from sqlite_master where type = 'table'")
    return frozenset(str(name) for (name,) in names)


def _check_file(path: Path, file_format: FileFormat, timeout_s: float) -> tuple[int, int] | None:
    """Refuse what is not ours before anything is changed. Opening a pipe would hang.

    Even to open another program's database for writing may change it: SQLite rolls back or takes
    over what a crash left in its side files. `immutable` keeps it from looking at them.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise ForeignFile(f"it is {_describe_kind(status.st_mode)}, not a file")
    if 0 < status.st_size < MIN_BYTES:
        raise NotADatabase("it is not a database of this program")
    if status.st_size:
        options = "mode=ro&immutable=1"
        with closing(_connect(path, options, timeout_s)) as database:
            _check_application_id(database, path, file_format)
    return status.st_dev, status.st_ino


def _check_application_id(
    database: sqlite3.Connection, path: Path, file_format: FileFormat
) -> None:
    """Refuse a file with content whose header has another id.

    Its schema is read only then. An empty one is another program's too, whose tables may still be
    in its log: we write our id first.
    """
    try:
        (application,) = database.execute("pragma application_id").fetchone()
        if application == file_format.application_id:
            return
        tables = _list_tables(database)
    except sqlite3.DatabaseError as error:
        if is_damage(error) and not _has_our_header(path, file_format):
            raise NotADatabase("it is not a database of this program") from error
        raise
    if not tables or tables != file_format.unmarked_tables:
        raise ForeignFile("it is a database of another program")
    if application:
        raise NotADatabase("it has our tables, and the id of another program")


def _describe_kind(mode: int) -> str:
    return next((name for is_kind, name in KINDS if is_kind(mode)), "something else")


def _has_our_header(path: Path, file_format: FileFormat) -> bool:
    """Whether a file begins as ours do. Only for a file that SQLite cannot use, see above."""
    header = _first_bytes(path, HEADER_BYTES)
    number = int.from_bytes(header[APPLICATION_ID], "big")
    return header.startswith(MAGIC) and number == file_format.application_id


def _protect_side_files(path: Path) -> None:
    """Move away what lies where SQLite keeps its side files, and is none: it would be deleted."""
    for side in SIDE_SUFFIXES:
        side_path = _get_side_path(path, side)
        if _is_side_file(side_path, side):
            continue
        number = 1
        while os.path.lexists(aside := side_path.with_name(f"{side_path.name}.foreign-{number}")):
            number += 1
        side_path.replace(aside)
        log.warning("%s is no file of SQLite's; it is now %s", side_path, aside)


def _is_side_file(path: Path, side: str) -> bool:
    """Whether a side file of SQLite's is there, or nothing."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return True
    if not stat.S_ISREG(status.st_mode):
        return False
    if side == "-shm":  # not to be opened: SQLite's locks are on it
        return status.st_size == INDEX_BEGINNING or status.st_size % INDEX_STEP == 0
    start = _first_bytes(path, 4)
    if side == "-wal":
        return not start or start in LOG_MAGIC
    return not start.strip(b"\0") or start == JOURNAL_MAGIC


def _first_bytes(path: Path, count: int) -> bytes:
    flags = os.O_RDONLY | _get_flag("O_NOFOLLOW") | _get_flag("O_NONBLOCK") | _get_flag("O_BINARY")
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return b""
    try:
        return os.read(descriptor, count) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def _make_private(path: Path) -> None:
    """Take a recognised file, and its side files, from other users' eyes."""
    if os.name != "posix":
        return  # a profile's directories are private by inheritance
    for side in ("", *SIDE_SUFFIXES):
        side_path = _get_side_path(path, side)
        with suppress(FileNotFoundError):
            status = side_path.lstat()
            loose = stat.S_ISREG(status.st_mode) and status.st_mode & OTHERS
            if loose and status.st_uid == os.geteuid():
                _change_mode(side_path, status)


def _change_mode(path: Path, status: os.stat_result) -> None:
    """Change the permissions of the very file that was looked at, and of no link's target."""
    change_link: Callable[[Path, int], None] | None = getattr(os, "lchmod", None)
    if change_link is not None:
        change_link(path, PRIVATE_FILE)
        return
    # Linux has no lchmod; and this descriptor, unlike others, frees no locks when it is closed.
    descriptor = os.open(path, _get_flag("O_PATH") | _get_flag("O_NOFOLLOW"))
    try:
        if os.path.samestat(os.fstat(descriptor), status):
            os.chmod(f"/proc/self/fd/{descriptor}", PRIVATE_FILE)  # noqa: PTH101 - no path of ours
    finally:
        os.close(descriptor)


def _get_flag(name: str) -> int:
    return getattr(os, name, 0)


def _find_quarantine_names(path: Path) -> list[Path]:
    """What has the name of a file that was set aside, oldest first, whosever it is."""
    name = re.compile(rf"{re.escape(path.name)}\.(corrupt|damaged|format)-[0-9]{{1,9}}")
    try:
        matches = [sibling for sibling in path.parent.iterdir() if name.fullmatch(sibling.name)]
    except FileNotFoundError:
        return []
    return sorted(matches, key=_parse_number)


def _parse_number(aside: Path) -> int:
    return int(aside.name.rpartition("-")[2])


def _get_side_path(path: Path, side: str) -> Path:
    return path.with_name(path.name + side)


def _get_size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
