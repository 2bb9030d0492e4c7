"""Bounds how many records of one kind a log gets, where others can cause them."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LogLimit"]

PERIOD_S = 60.0
MAX_RECORDS = 10


@dataclass(slots=True)
class _Window:
    ends_at: float
    passed: int = 0
    dropped: int = 0


class LogLimit(logging.Filter):
    """Lets ten warnings a minute pass from each place in the code; the next one counts the others.

    Records below WARNING pass: a log has them only if somebody asked for them.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._windows: dict[tuple[str, int], _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record passes."""
        if record.levelno < logging.WARNING:
            return True
        now, place = self._monotonic(), (record.pathname, record.lineno)
        window = self._windows.get(place)
        dropped = 0
        if window is None or now >= window.ends_at:
            dropped = window.dropped if window is not None else 0
            window = self._windows[place] = _Window(now + PERIOD_S)
        if window.passed == MAX_RECORDS:
            window.dropped += 1
            return False
        window.passed += 1
        if dropped:
            record.msg, record.args = (
                "%s (%d others like it were left out)",
                (
                    record.getMessage(),
                    dropped,
                ),
            )
        return True
