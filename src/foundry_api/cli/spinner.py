"""Something to look at while nothing happens yet."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Self

from foundry_api.cli.output import is_terminal, sanitize_line

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Waiting"]

PATIENCE_S = 0.6
"""Most answers begin before that; rich, which draws the spinner, costs 50 ms to import."""


class Waiting:
    """A spinner on the terminal, when a wait gets long. Where nobody looks, there is none.

    Args:
        what: What is being waited for.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._timer: asyncio.TimerHandle | None = None
        self._stop: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        if is_terminal(sys.stderr):
            self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._spin)
        return self

    def __exit__(self, *failure: object) -> None:
        self.over()

    def over(self) -> None:
        """What was waited for is here. Once more does nothing."""
        if self._timer is not None:
            self._timer.cancel()
        if self._stop is not None:
            self._stop()
        self._timer = self._stop = None

    def _spin(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - see PATIENCE_S
        from rich.text import Text  # noqa: PLC0415 - as above

        status = Console(stderr=True).status(Text(sanitize_line(self._what)))
        status.start()
        self._stop = status.stop
