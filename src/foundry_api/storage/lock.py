"""A lock between processes, which the operating system releases when its holder dies."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["FileLock", "LockTimeout", "is_held"]

POLL_S = 0.02
# Opening a symbolic link in the lock's place must not create a file elsewhere.
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)

if sys.platform == "win32":
    import ctypes
    import msvcrt

    # LockFileEx without LOCKFILE_EXCLUSIVE_LOCK takes a shared lock.
    _FAIL_IMMEDIATELY = 1

    class _Overlapped(ctypes.Structure):
        """`OVERLAPPED` (minwinbase.h): zeros stand for the start of the file."""

        _fields_ = (
            ("internal", ctypes.c_size_t),
            ("internal_high", ctypes.c_size_t),
            ("offset", ctypes.c_uint32),
            ("offset_high", ctypes.c_uint32),
            ("event", ctypes.c_void_p),
        )

    def _try_lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _is_locked(descriptor: int) -> bool:
        # Shared, so that several processes can check at the same time. msvcrt has no such lock, and
        # with an exclusive one a check would have to wait, and look again, to tell a holder from
        # another check.
        handle = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))
        return not ctypes.windll.kernel32.LockFileEx(
            handle, _FAIL_IMMEDIATELY, 0, 1, 0, ctypes.byref(_Overlapped())
        )

else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _is_locked(descriptor: int) -> bool:
        try:
            # Shared, so that several processes can check at the same time.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


class LockTimeout(Exception):
    """Another process held the lock until the timeout."""


class FileLock:
    """A context manager that holds a lock file exclusively, or raises LockTimeout."""

    # The file is never deleted: otherwise two processes could lock two files of the same name.
    def __init__(
        self,
        path: Path,
        *,
        timeout_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._descriptor = -1

    def __enter__(self) -> Self:
        descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | NO_FOLLOW, 0o600)
        try:
            self._wait(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)  # releases the lock, on Windows too

    def _wait(self, descriptor: int) -> None:
        give_up_at = self._monotonic() + self._timeout_s
        while True:
            try:
                _try_lock(descriptor)
            except OSError as error:
                if self._monotonic() >= give_up_at:
                    raise LockTimeout(
                        f"another process has held {self._path} for {self._timeout_s:g} s"
                    ) from error
                self._sleep(POLL_S)
            else:
                return


def is_held(path: Path) -> bool:
    """Whether a process holds a lock file exclusively."""
    # The check itself takes the lock for a moment, so FileLock needs a timeout above 0.
    try:
        descriptor = os.open(path, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return _is_locked(descriptor)
    finally:
        os.close(descriptor)
