"""The time by which keys expire. It never goes back, also not between two starts of the gateway."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

from foundry_api.storage.private_file import read_file, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["ForwardClock", "LatestTime"]

MAX_BYTES = 64

log = logging.getLogger("foundry_api")


class ForwardClock:
    """The wall clock, except that it never goes back nor stands still: time that passed is over.

    When the system's clock is set back, this one goes on from where it was.
    """

    def __init__(
        self,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._offset_s = -math.inf

    def __call__(self) -> float:
        # The wall clock first: a pause between the two must not look like a jump ahead.
        wall = self._wall_clock()
        ticks = self._monotonic()
        offset_s = wall - ticks
        if offset_s > self._offset_s:
            self._offset_s = offset_s
        return ticks + self._offset_s

    def start_at(self, moment: float) -> None:
        """Go on from a moment that was seen before, unless it is later already."""
        self._offset_s = max(self._offset_s, moment - self._monotonic())


class LatestTime:
    """The latest time at which something has ended, in a file, in seconds since the epoch.

    Without it, a clock that is set back before a start would make expired tokens valid again. The
    file is written only when a token ends and at starts, not all the time.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "latest-time"

    def read(self) -> float:
        """Return the time; 0 if there is none. Raises OSError if it cannot be read."""
        try:
            moment = float(read_file(self.path, MAX_BYTES))
        except FileNotFoundError:
            return 0.0
        except ValueError:
            moment = math.nan
        if not math.isfinite(moment):
            log.warning("%s is damaged: the time starts at that of the system", self.path)
            return 0.0
        return moment

    def write(self, moment: float) -> None:
        """Store a time. Raises OSError."""
        replace_file(self.path, f"{moment!r}\n".encode(), durable=True)
