"""A spinner on the terminal during a long wait."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Self

from foundry_api.cli.output import is_terminal, sanitize_line

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Spinner"]

# Most answers begin sooner, and then need not wait the 50 ms that the import of rich takes.
DELAY_S = 0.6


class Spinner:
    """Shows a spinner on standard error after a delay; nothing if that is no terminal."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._timer: asyncio.TimerHandle | None = None
        self._stop_spinning: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        if is_terminal(sys.stderr):
            self._timer = asyncio.get_running_loop().call_later(DELAY_S, self._start_spinning)
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the spinner. A second call does nothing."""
        if self._timer is not None:
            self._timer.cancel()
        if self._stop_spinning is not None:
            self._stop_spinning()
        self._timer = self._stop_spinning = None

    def _start_spinning(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - see DELAY_S
        from rich.text import Text  # noqa: PLC0415 - as above

        status = Console(stderr=True).status(Text(sanitize_line(self._description)))
        status.start()
        self._stop_spinning = status.stop
