"""What a verb works with: a client, and the event loop that it lives in."""

from __future__ import annotations

import asyncio
import logging
import os
import textwrap
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from foundry_api.cli.spinner import Spinner
from foundry_api.client.client import FoundryAPIClient
from foundry_api.types.events import CacheTrouble, Event
from foundry_api.types.plain_text import sanitize, sanitize_line
from foundry_api.types.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from foundry_api.cli.options import GlobalOptions
    from foundry_api.resilience.limiter import LimiterSettings

__all__ = ["DEBUG_VERBOSITY", "OPTIONS", "Session", "make_log_handler", "make_settings"]

_T = TypeVar("_T")

OPTIONS = {
    "base_url": "--base-url",
    "base_urls": "--base-urls",
    "service": "--service",
    "model": "--model",
    "timeout_s": "--timeout",
    "deadline_s": "--deadline",
}
"""What settings are called on the command line."""

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
INDENT = "    "
DEBUG_VERBOSITY = 2


class Session:
    """A client with its event loop, for the length of one command.

    The loop runs only while something is awaited. Questions to the user are asked between its
    runs: while it runs, the first Ctrl-C cancels the task, which cannot end a blocking read.

    Args:
        common: The options that every verb takes.
        model: Model of calls that name none.
        base_urls: Addresses of several services; empty for what the common options say.
        limiter: How many calls may be in flight.
        timeout_s: Seconds without a token before a call gives up.
        deadline_s: Seconds for a whole call.
    """

    def __init__(
        self,
        common: GlobalOptions,
        *,
        model: str | None = None,
        base_urls: tuple[str, ...] = (),
        limiter: LimiterSettings | None = None,
        timeout_s: float | None = None,
        deadline_s: float | None = None,
    ) -> None:
        self.settings = make_settings(
            common, model=model, base_urls=base_urls, timeout_s=timeout_s, deadline_s=deadline_s
        )
        self.client = FoundryAPIClient(settings=self.settings, limiter=limiter)
        if not common.verbose:  # the log says it otherwise
            self.client.events.subscribe(_warn_about_cache, CacheTrouble)
        self._log_handler = make_log_handler(common)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        logging.getLogger("foundry_api").addHandler(self._log_handler)
        return self

    def __exit__(self, *failure: object) -> None:
        try:
            with self._runner:
                self._runner.run(self.client.close())
        finally:
            logging.getLogger("foundry_api").removeHandler(self._log_handler)

    def run(self, coroutine: Coroutine[Any, Any, _T], description: str = "") -> _T:
        """What a coroutine returns. Ctrl-C cancels it, and then raises KeyboardInterrupt.

        Args:
            coroutine: What to await.
            description: What to tell on a terminal when it takes long.
        """
        return self._runner.run(_with_spinner(coroutine, description) if description else coroutine)


def _warn_about_cache(trouble: Event) -> None:
    """Say that a cache that was asked for is not used, or that its file was renamed."""
    if isinstance(trouble, CacheTrouble):
        done = (
            f"it is now {trouble.backup_path}" if trouble.backup_path else "calls go on without it"
        )
        message = f"Warning: the cache {trouble.path} cannot be used: {trouble.problem}; {done}."
        click.echo(sanitize_line(message), err=True)


async def _with_spinner(coroutine: Coroutine[Any, Any, _T], description: str) -> _T:
    with Spinner(description):
        return await coroutine


def make_settings(
    common: GlobalOptions,
    *,
    model: str | None = None,
    base_urls: tuple[str, ...] = (),
    timeout_s: float | None = None,
    deadline_s: float | None = None,
) -> Settings:
    """Settings from the options, then the environment.

    Raises:
        ConfigurationError: One of them cannot be used.
    """
    return Settings.from_environment(
        None,
        names=OPTIONS,
        base_url=common.base_url,
        base_urls=base_urls or None,
        service=common.service,
        log_level="DEBUG" if common.verbose >= DEBUG_VERBOSITY else None,
        model=model,
        timeout_s=timeout_s,
        deadline_s=deadline_s,
    )


def make_log_handler(common: GlobalOptions) -> logging.Handler:
    """Logs go to standard error when they are asked for; otherwise what matters is told anyway."""
    if not common.verbose and not os.environ.get("FOUNDRY_LOG_LEVEL"):
        return logging.NullHandler()
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter(LOG_FORMAT))
    return handler


class _LineFormatter(logging.Formatter):
    """Only a record begins a line at its margin, whatever the texts in it hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's
        record.message = sanitize_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the base class's
        return textwrap.indent(sanitize(super().formatException(ei)), INDENT)
