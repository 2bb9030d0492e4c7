"""A lock between processes, which the system frees when its holder dies."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _is_locked(descriptor: int) -> bool:
        for _ in range(MAX_ATTEMPTS):
            try:
                _try_lock(descriptor)
            except OSError:
                time.sleep(POLL_S)  # it may be another one who looks
            else:
                return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _is_locked(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # several may look at once
        except OSError:
            return True
        return False


__all__ = ["FileLock", "LockTimeout", "is_held"]

POLL_S = 0.02
MAX_ATTEMPTS = 3
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
"""So that a link in the lock's place makes no file elsewhere."""


class LockTimeout(Exception):
    """Another process held the lock for the whole wait."""


class FileLock:
    """Held by one process, and one thread of it, at a time. A context manager.

    The file stays: removing it would let two processes lock two files of the same name.

    Args:
        path: The lock's file; its directory must exist.
        timeout_s: How long to wait for it.
        clock: Seconds of a clock that never goes back.
        sleep: Waits for so many seconds.

    Raises:
        LockTimeout: On entry, when another process holds it for the whole wait.
    """

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
        os.close(self._descriptor)  # frees the lock, on Windows too

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
    """Whether somebody holds a lock. Those who only look are not taken for its holder.

    For that moment of looking nobody else gets the lock; who wants it should wait a little for it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return _is_locked(descriptor)
    finally:
        os.close(descriptor)
