"""Stores the points behind the plots of the page, so that a restart does not forget them.

A file in the gateway's directory is replaced once a minute and at the end. It is no record that
anybody relies on: a gateway that cannot read or write it serves calls all the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import msgspec

from foundry_api.gateway.history import Point
from foundry_api.storage.private_file import read_file, replace_file
from foundry_api.wire.errors import NOT_JSON

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from foundry_api.gateway.history import History

__all__ = ["FILE_NAME", "HistoryFile"]

FILE_NAME = "history.json"
VERSION = 1
SAVE_INTERVAL_S = 60.0
# All points take about 250 kB.
MAX_BYTES = 4 * 2**20

log = logging.getLogger("foundry_api.gateway")


class _Content(msgspec.Struct, frozen=True):
    """What the file contains: the points of each window, the oldest first."""

    version: int
    points: dict[str, tuple[Point, ...]]


class HistoryFile:
    """Keeps the file up to date.

    Args:
        directory: The gateway's directory.
        history: What is stored.
        wall_clock: Seconds since the epoch.
        sleep: Waits between two saves.
    """

    def __init__(
        self,
        directory: Path,
        history: History,
        *,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.path = directory / FILE_NAME
        self._history = history
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._has_failed = False

    async def open(self) -> None:
        """Continue with the stored points; without them if they cannot be read."""
        try:
            data = await asyncio.to_thread(read_file, self.path, MAX_BYTES)
            content = msgspec.json.decode(data, type=_Content)
        except FileNotFoundError:
            return
        except (OSError, *NOT_JSON) as error:
            log.warning("the plots start anew: %s cannot be read: %s", self.path, error)
            return
        if content.version == VERSION:
            self._history.restore(content.points, self._wall_clock())

    async def watch(self) -> None:
        """Store the points once a minute until cancelled."""
        while True:
            await self._sleep(SAVE_INTERVAL_S)
            await self.save()

    async def save(self) -> None:
        """Replace the file; a failure is logged, once for each series of them."""
        points = self._history.get_points()
        try:
            await asyncio.to_thread(self._write, points)
        except OSError as error:
            if not self._has_failed:
                log.warning("the points of the plots are not stored in %s: %s", self.path, error)
            self._has_failed = True
        else:
            self._has_failed = False

    def _write(self, points: dict[str, tuple[Point, ...]]) -> None:
        replace_file(self.path, msgspec.json.encode(_Content(VERSION, points)))
