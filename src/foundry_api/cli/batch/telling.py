"""Telling how far a batch is: drawn for a person, as lines for a log, not at all for a program."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

import click

from foundry_api.cli.batch.told import line
from foundry_api.cli.output import is_terminal, printable_line

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from foundry_api.batch.progress import BatchProgress
    from foundry_api.cli.options import Common

    Tell = Callable[[BatchProgress], None]

__all__ = ["Watch", "telling"]

LINE_EVERY_S = 10.0


class Watch:
    """Remembers how far a batch was when it stopped.

    Attributes:
        last: What was told last; None before that.
    """

    def __init__(self) -> None:
        self.last: BatchProgress | None = None


@contextlib.contextmanager
def telling(title: str, common: Common, watch: Watch) -> Generator[Tell]:
    """What a batch tells its progress.

    Args:
        title: What becomes what.
        common: Whether the command prints JSON; then nothing else is told.
        watch: Remembers what was told.
    """
    with _shown(title, common) as show:

        def tell(now: BatchProgress) -> None:
            watch.last = now
            show(now)

        yield tell


@contextlib.contextmanager
def _shown(title: str, common: Common) -> Generator[Tell]:
    if common.as_json:
        yield _nobody
    elif is_terminal(sys.stderr):
        from foundry_api.cli.batch.screen import BatchScreen  # noqa: PLC0415 - it imports rich

        with BatchScreen(title) as screen:
            yield screen.tell
    else:
        yield _lines(title)


def _nobody(now: BatchProgress) -> None:
    """A program waits for the end."""


def _lines(title: str, clock: Callable[[], float] = time.monotonic) -> Tell:
    """A line now and then; none for what is over before the first is due."""
    due = clock() + LINE_EVERY_S

    def tell(now: BatchProgress) -> None:
        nonlocal due
        if clock() < due:
            return
        due = clock() + LINE_EVERY_S
        click.echo(f"{printable_line(title)}: {line(now)}", err=True)

    return tell
