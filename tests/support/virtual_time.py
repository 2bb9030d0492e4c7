"""An event loop with a virtual clock, so that tests of long waits run at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

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
