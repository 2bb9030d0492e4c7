"""The audit log: who changed or tried what, when, and from where, without contents and secrets.

Each line of the file is a JSON object. The gateway and `foundry-api keys` append to the same file.
It is renamed when it is full, and the oldest file is deleted, so the files are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.keys.token import KEY_PREFIX
from foundry_api.storage.lock import NO_FOLLOW, FileLock, LockTimeout
from foundry_api.storage.paths import PRIVATE_DIRECTORY
from foundry_api.storage.private_file import PRIVATE, replace_atomically
from foundry_api.types.plain_text import sanitize_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from foundry_api.gateway.keys.types import ApiKey

__all__ = ["FILE_NAME", "AuditFile", "AuditLog", "AuditRecord"]

FILE_NAME = "audit.jsonl"
MAX_BYTES = 10 * 2**20
FILES = 5
LOCK_TIMEOUT_S = 1.0
APPEND = os.O_APPEND | os.O_CREAT | os.O_RDWR | NO_FOLLOW | getattr(os, "O_BINARY", 0)
# After a failure, such as a full disk.
RETRY_S = 1.0
# Records that wait for a disk which cannot be written.
MAX_WAITING = 1000
MAX_TEXT = 256
# Of each file, for a list of the last records.
MAX_READ_BYTES = 2**19
# Everybody who reaches the gateway can make authentication fail. More failures than these are only
# counted: they must not push the records of changes out of the files.
MAX_FAILURES = 120
FAILURE_WINDOW_S = 60.0

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_TOKEN = re.compile(rf"{KEY_PREFIX}[0-9A-Za-z_-]+")

log = logging.getLogger("foundry_api.gateway")


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the audit log.

    Attributes:
        time: Seconds since the epoch; the file has it as text in UTC.
        event: What was done, such as `key.revoke` or `model.load`.
        result: `ok`, or the code of the error.
        key: Name of the key of the caller; None without one.
        key_id: Its id.
        user: User of the operating system who ran a command; None for a request.
        address: Address of the client; None for a command and for the gateway itself.
        request_id: Id of the request.
        target: What it was done to: a model, a key, a route.
        count: How many events the line stands for.
    """

    time: float
    event: str
    result: str = "ok"
    key: str | None = None
    key_id: str | None = None
    user: str | None = None
    address: str | None = None
    request_id: str | None = None
    target: str | None = None
    count: int = 1

    def encode(self) -> bytes:
        """Return the line, in which no value can do harm."""
        members = {
            name: _neutralise(value) if isinstance(value, str) else value
            for name, value in msgspec.structs.asdict(self).items()
        }
        moment = datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds")
        return msgspec.json.encode({**members, "time": moment.replace("+00:00", "Z")}) + b"\n"


class AuditFile:
    """The file of the audit log in the gateway's directory. Its methods block.

    Methods raise OSError and LockTimeout.
    """

    def __init__(
        self, directory: Path, *, max_bytes: int = MAX_BYTES, max_files: int = FILES
    ) -> None:
        self.path = directory / FILE_NAME
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._lock = FileLock(directory / f"{FILE_NAME}.lock", timeout_s=LOCK_TIMEOUT_S)

    def append(self, records: Iterable[AuditRecord]) -> None:
        """Write records to the end of the file."""
        lines = b"".join(record.encode() for record in records)
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
        with self._lock:
            self._rotate(len(lines))
            descriptor = os.open(self.path, APPEND, PRIVATE)
            try:
                _append(descriptor, lines)
            finally:
                os.close(descriptor)

    def read_last(self, count: int) -> list[dict[str, Any]]:
        """Return the last records, the newest first; only the ends of the files are read."""
        records: list[dict[str, Any]] = []
        for path in self._list_paths():
            try:
                with path.open("rb") as file:
                    start = max(0, file.seek(0, os.SEEK_END) - MAX_READ_BYTES)
                    file.seek(start)
                    lines = file.read(MAX_READ_BYTES).split(b"\n")
            except FileNotFoundError:  # renamed meanwhile, or there are no older ones
                break
            for line in reversed(lines[1:] if start else lines):
                with contextlib.suppress(msgspec.DecodeError):  # cut, or being written
                    records.append(_decode(line))
                if len(records) == count:
                    return records
        return records

    def _list_paths(self) -> list[Path]:
        numbers = range(1, self._max_files)
        return [self.path, *(self.path.with_name(f"{FILE_NAME}.{n}") for n in numbers)]

    def _rotate(self, new_bytes: int) -> None:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return
        if not size or size + new_bytes <= self._max_bytes:
            return
        for newer, older in reversed(list(itertools.pairwise(self._list_paths()))):
            if newer.exists():
                replace_atomically(newer, older)


class AuditLog:
    """Records events, and writes them in a thread. Use it on one event loop.

    While the file cannot be written, requests are served on, and `problem` says why.

    Args:
        file: Where to write; None if nothing is recorded.
        monotonic: A clock for durations.
        wall_clock: Seconds since the epoch.
    """

    def __init__(
        self,
        file: AuditFile | None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._waiting: list[AuditRecord] = []
        self._dropped = 0
        self._thread = ThreadPoolExecutor(1, "foundry-api-audit")
        self._writing: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._window_started_at = -FAILURE_WINDOW_S
        self._failures = 0
        self._problem: str | None = None
        self._recorded = 0

    @property
    def recorded(self) -> int:
        """How many events were recorded."""
        return self._recorded

    @property
    def problem(self) -> str | None:
        """Why events cannot be recorded now; None if they can."""
        return self._problem

    def record(
        self,
        event: str,
        result: str = "ok",
        *,
        key: ApiKey | None = None,
        address: str | None = None,
        request_id: str | None = None,
        target: str | None = None,
        count: int = 1,
    ) -> None:
        """Record an event; see `AuditRecord`. It never fails, nor waits."""
        if self._file is None:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        self._recorded += 1
        self._waiting.append(
            AuditRecord(
                time=self._wall_clock(),
                event=event,
                result=result,
                key=None if key is None else key.name,
                key_id=None if key is None else key.id,
                address=address,
                request_id=request_id,
                target=target,
                count=count,
            )
        )
        if self._problem is None:
            self._start_writing()

    def record_failure(
        self,
        result: str,
        *,
        key: ApiKey | None = None,
        address: str | None,
        request_id: str,
        target: str,
    ) -> None:
        """Record a failure of authentication; beyond MAX_FAILURES a minute, only count it."""
        now = self._monotonic()
        if now - self._window_started_at >= FAILURE_WINDOW_S:
            self._record_uncounted()
            self._window_started_at, self._failures = now, 0
        self._failures += 1
        if self._failures <= MAX_FAILURES:
            self.record(
                "authentication",
                result,
                key=key,
                address=address,
                request_id=request_id,
                target=target,
            )

    @property
    def is_recorded(self) -> bool:
        """Whether events are recorded at all."""
        return self._file is not None

    async def read_last(self, count: int) -> list[dict[str, Any]]:
        """Return the last records, the newest first.

        Raises:
            RequestError: The file cannot be read.
        """
        if self._file is None:
            return []
        if self._writing is not None:
            await asyncio.wait([self._writing])
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._file.read_last, count)
        except OSError as error:
            log.warning("the audit log %s is not read: %s", self._file.path, error)
            raise RequestError(
                503, "storage_failed", "The audit log cannot be read; the gateway's log says why."
            ) from error

    async def close(self) -> None:
        """Write what waits. What cannot be written is lost, which is logged."""
        self._record_uncounted()
        if self._writing is not None:
            await self._writing
        if self._retry is not None:
            self._retry.cancel()
        if self._waiting:
            await self._write()
        if self._waiting:
            log.warning("%d records of the audit log are lost", len(self._waiting) + self._dropped)
        self._thread.shutdown(wait=False)
        self._file = None

    def _record_uncounted(self) -> None:
        more, self._failures = self._failures - MAX_FAILURES, 0
        if more > 0:
            self.record("authentication", "further_failures", count=more)

    def _start_writing(self) -> None:
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                await self._write()
                if self._problem is not None:
                    loop = asyncio.get_running_loop()
                    self._retry = loop.call_later(RETRY_S, self._start_writing)
                    return
        finally:
            self._writing = None

    async def _write(self) -> None:
        records = list(self._waiting)
        if self._file is None:
            return
        if self._dropped:
            now = self._wall_clock()
            records.append(AuditRecord(time=now, event="lost", result="full", count=self._dropped))
        dropped = self._dropped
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._file.append, records)
        except (OSError, LockTimeout) as error:
            if self._problem is None:  # one message for each series of failures
                log.warning("the audit log %s is not written: %s", self._file.path, error)
            self._problem = f"the audit log {self._file.path} cannot be written: {error}"
            return
        del self._waiting[: len(records) - bool(dropped)]
        self._dropped -= dropped
        if self._problem is not None:
            log.warning("the audit log %s is written again", self._file.path)
        self._problem = None


def _append(descriptor: int, lines: bytes) -> None:
    """Write all lines, or none of them."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size:
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        if os.read(descriptor, 1) != b"\n":  # a loss of power cut the last line
            lines = b"\n" + lines
    rest = memoryview(lines)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _neutralise(text: str) -> str:
    """Return a text without control characters, and without anything that looks like a token."""
    text = _TOKEN.sub(f"{KEY_PREFIX}…", text[:MAX_TEXT])
    return sanitize_line(text.encode("utf-8", "backslashreplace").decode())
