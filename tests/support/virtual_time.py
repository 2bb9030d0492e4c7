"""Event loops with other clocks, for tests of waits."""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any

STEP_S = 0.02

Run = Callable[[Coroutine[Any, Any, None]], None]


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that advances its clock instead of waiting."""

    def __init__(self) -> None:
        self._time_s = 0.0
        selector = selectors.DefaultSelector()
        select = selector.select

        def advance(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            self._time_s += timeout or 0.0
            return select(0)

        selector.select = advance  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self._time_s


class SteadyTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock counts waits, but not how long the machine runs other processes.

    For a server and its client on one loop: no time limit passes while either of them could go on.
    """

    def __init__(self) -> None:
        self._time_s = 0.0
        seen_at = time.monotonic()
        selector = selectors.DefaultSelector()
        select = selector.select

        def wait(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            nonlocal seen_at
            ready, limit_s = select(0), STEP_S
            if not ready and timeout != 0:
                ready = select(timeout)
                limit_s += math.inf if timeout is None else timeout
            now = time.monotonic()
            self._time_s += min(now - seen_at, limit_s)
            seen_at = now
            return ready

        selector.select = wait  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self._time_s
