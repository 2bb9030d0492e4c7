"""The files of an SQLite database: header, side files, permissions and quarantine.

Nothing here opens a database file that SQLite may have open. Closing it would release the locks
that SQLite holds on it for other connections of this process
(https://www.sqlite.org/howtocorrupt.html, section "POSIX advisory locks canceled by a separate
thread doing close()").
"""

from __future__ import annotations

import logging
import os
import re
import stat
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_api.storage.private_file import REPLACE_PATIENCE_S, replace_atomically

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

__all__ = [
    "FileFormat",
    "get_file_identity",
    "get_side_path",
    "get_size",
    "has_own_header",
    "list_quarantined",
    "make_private",
    "move_foreign_side_files",
    "quarantine",
    "remove_quarantined",
]

SIDE_SUFFIXES = ("-wal", "-shm", "-journal")
PRIVATE_FILE = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO

HEADER_BYTES = 100
MAGIC = b"SQLite format 3\0"
APPLICATION_ID = slice(68, 72)
WAL_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9"
# Sizes of a shared-memory index: SQLite truncates it to 3 bytes and extends it by pages.
SHM_TRUNCATED_BYTES, SHM_PAGE_BYTES = 3, 4096

log = logging.getLogger("foundry_api")


@dataclass(frozen=True, slots=True)
class FileFormat:
    """Identifies one kind of database of this package.

    Attributes:
        application_id: SQLite's application id.
        version: Version of the schema, stored as `user_version`.
        schema: Statements that create the tables, without a transaction.
        unmarked_tables: Tables of files from before they had this application id.
        former_application_id: What those files have instead; 0 for none. Others get the present one
            when they are opened.
    """

    application_id: int
    version: int
    schema: str
    unmarked_tables: frozenset[str] = frozenset()
    former_application_id: int = 0

    def has_id(self, application_id: int) -> bool:
        """Whether an application id is one of this format, also a former one."""
        return application_id == self.application_id or (
            application_id != 0 and application_id == self.former_application_id
        )


def get_file_identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode, which distinguish files of the same name; None without a file."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def get_side_path(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def get_size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def has_own_header(path: Path, file_format: FileFormat) -> bool:
    """Whether a file that SQLite cannot open has the header of the format."""
    header = _read_start(path, HEADER_BYTES)
    application_id = int.from_bytes(header[APPLICATION_ID], "big")
    return header.startswith(MAGIC) and file_format.has_id(application_id)


def move_foreign_side_files(path: Path, lock: AbstractContextManager[object]) -> None:
    """Rename files that have the names of SQLite's side files, but are none.

    `lock` is the one under which the tables of the database are created.
    """
    # SQLite would delete them.
    for suffix in SIDE_SUFFIXES:
        side_path = get_side_path(path, suffix)
        if not os.path.lexists(side_path):
            continue
        # A database has a journal only while its tables are created. SQLite on Windows cannot
        # delete its journal while it is open here, and the creation fails.
        with lock if suffix == "-journal" else nullcontext():
            if not _is_side_file(side_path, suffix):
                _rename_foreign(side_path)


def _rename_foreign(path: Path) -> None:
    number = 1
    while os.path.lexists(backup_path := path.with_name(f"{path.name}.foreign-{number}")):
        number += 1
    replace_atomically(path, backup_path)
    log.warning("%s is not a file of SQLite; renamed it to %s", path, backup_path)


def make_private(path: Path) -> None:
    """Remove other users' permissions from a database and its side files."""
    if os.name != "posix":
        return  # on Windows, the directories of a profile are private by inheritance
    for suffix in ("", *SIDE_SUFFIXES):
        side_path = get_side_path(path, suffix)
        with suppress(FileNotFoundError):
            status = side_path.lstat()
            is_open = stat.S_ISREG(status.st_mode) and status.st_mode & OTHERS
            if is_open and status.st_uid == os.geteuid():
                _change_mode(side_path, status)


def quarantine(path: Path, reason: str, *, patience_s: float = REPLACE_PATIENCE_S) -> Path:
    """Rename a damaged database and its side files to `NAME.REASON-NUMBER`; return the new path.

    The caller must hold the lock of the database. Raises PermissionError if, on Windows, another
    connection still has it open after `patience_s` seconds.
    """
    existing = _find_quarantine_names(path)
    number = 1 + max((_parse_number(name) for name in existing), default=0)
    backup_path = path.with_name(f"{path.name}.{reason}-{number}")
    # The database first: a process that opens it meanwhile notices that its identity changed.
    for suffix in ("", *SIDE_SUFFIXES):
        with suppress(FileNotFoundError):
            replace_atomically(
                get_side_path(path, suffix),
                get_side_path(backup_path, suffix),
                patience_s=patience_s,
            )
    return backup_path


def list_quarantined(path: Path, file_format: FileFormat) -> list[Path]:
    """List the quarantined files of the format, oldest first."""
    return [name for name in _find_quarantine_names(path) if has_own_header(name, file_format)]


def remove_quarantined(path: Path, file_format: FileFormat, *, keep: int = 0) -> None:
    """Delete the quarantined files of the format, except for the `keep` newest."""
    quarantined = list_quarantined(path, file_format)
    for backup_path in quarantined[: max(0, len(quarantined) - keep)]:
        for suffix in SIDE_SUFFIXES:
            side_path = get_side_path(backup_path, suffix)
            if _is_side_file(side_path, suffix):
                side_path.unlink(missing_ok=True)
        backup_path.unlink(missing_ok=True)


def _find_quarantine_names(path: Path) -> list[Path]:
    """List the files with the name of a quarantined one, oldest first, also foreign files."""
    pattern = re.compile(rf"{re.escape(path.name)}\.(corrupt|damaged|format)-[0-9]{{1,9}}")
    try:
        matches = [sibling for sibling in path.parent.iterdir() if pattern.fullmatch(sibling.name)]
    except FileNotFoundError:
        return []
    return sorted(matches, key=_parse_number)


def _parse_number(backup_path: Path) -> int:
    return int(backup_path.name.rpartition("-")[2])


def _is_side_file(path: Path, suffix: str) -> bool:
    """Whether a file is a side file of SQLite, or missing."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return True
    if not stat.S_ISREG(status.st_mode):
        return False
    if suffix == "-shm":  # must not be opened, because SQLite's locks are on it
        return status.st_size == SHM_TRUNCATED_BYTES or status.st_size % SHM_PAGE_BYTES == 0
    start = _read_start(path, 4)
    if suffix == "-wal":
        return not start or start in WAL_MAGIC
    # SQLite zeroes the header of a journal that it has finished with.
    return not start.strip(b"\0") or start == JOURNAL_MAGIC


def _read_start(path: Path, count: int) -> bytes:
    # Links are not followed, and opening a pipe must not block.
    flags = os.O_RDONLY | _get_flag("O_NOFOLLOW") | _get_flag("O_NONBLOCK") | _get_flag("O_BINARY")
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return b""
    try:
        return os.read(descriptor, count) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def _change_mode(path: Path, status: os.stat_result) -> None:
    """Make a file private, but neither a link's target nor a file that replaced it meanwhile."""
    change_link_mode: Callable[[Path, int], None] | None = getattr(os, "lchmod", None)
    if change_link_mode is not None:
        change_link_mode(path, PRIVATE_FILE)
        return
    # Linux has no lchmod. Closing a descriptor of O_PATH, unlike others, releases no locks.
    descriptor = os.open(path, _get_flag("O_PATH") | _get_flag("O_NOFOLLOW"))
    try:
        if os.path.samestat(os.fstat(descriptor), status):
            os.chmod(f"/proc/self/fd/{descriptor}", PRIVATE_FILE)  # noqa: PTH101 - not a user path
    finally:
        os.close(descriptor)


def _get_flag(name: str) -> int:
    """Return a flag of `os.open`; 0 on a platform without it."""
    return getattr(os, name, 0)
