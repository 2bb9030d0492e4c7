"""The client of a command, with its event loop, settings and log."""

from __future__ import annotations

import asyncio
import logging
import os
import textwrap
from typing import TYPE_CHECKING, Any, Self, TypeVar

from foundry_api.cli.output import print_notice
from foundry_api.cli.spinner import Spinner
from foundry_api.cli.user_config import load_user_config, merge_environment
from foundry_api.client.client import FoundryAPIClient
from foundry_api.types.events import CacheTrouble, Event
from foundry_api.types.plain_text import sanitize, sanitize_line
from foundry_api.types.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from foundry_api.cli.options import GlobalOptions
    from foundry_api.resilience.limiter import LimiterSettings

__all__ = [
    "DEBUG_VERBOSITY",
    "OPTION_NAMES",
    "Session",
    "get_environment",
    "make_log_handler",
    "make_settings",
]

_T = TypeVar("_T")

# Errors name the option instead of the setting.
OPTION_NAMES = {
    "base_url": "--base-url",
    "base_urls": "--base-urls",
    "service": "--service",
    "model": "--model",
    "timeout_s": "--timeout",
    "deadline_s": "--deadline",
}

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
INDENT = "    "
DEBUG_VERBOSITY = 2


class Session:
    """A client and its event loop for the duration of one command.

    The loop runs only inside `run`. Ask the user questions outside of it: while a loop runs, Ctrl-C
    cancels the task, which does not end a blocking read.
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
        self.config = load_user_config()
        environ = merge_environment(self.config, os.environ)
        self.settings = make_settings(
            common,
            environ=environ,
            model=model,
            base_urls=base_urls,
            timeout_s=timeout_s,
            deadline_s=deadline_s,
        )
        # Whether the model was chosen by nobody.
        self.has_default_model = model is None and "FOUNDRY_MODEL" not in environ
        self.client = FoundryAPIClient(settings=self.settings, limiter=limiter)
        if not common.verbose:  # with -v, the log reports it
            self.client.events.subscribe(_warn_about_cache, CacheTrouble)
        self._log_handler = make_log_handler(common, environ)
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
        """Run a coroutine, with a spinner if it takes long. Ctrl-C raises KeyboardInterrupt."""

        async def run_with_spinner() -> _T:
            with Spinner(description):
                return await coroutine

        return self._runner.run(run_with_spinner() if description else coroutine)


def _warn_about_cache(trouble: Event) -> None:
    if isinstance(trouble, CacheTrouble):
        effect = (
            f"it was renamed to {trouble.backup_path}"
            if trouble.backup_path
            else "calls are not cached"
        )
        message = f"Warning: the cache {trouble.path} cannot be used: {trouble.problem}; {effect}."
        print_notice(sanitize_line(message))


def get_environment() -> dict[str, str]:
    """Return the environment, with the settings of the user's file that it does not override."""
    return merge_environment(load_user_config(), os.environ)


def make_settings(
    common: GlobalOptions,
    *,
    environ: Mapping[str, str] | None = None,
    model: str | None = None,
    base_urls: tuple[str, ...] = (),
    timeout_s: float | None = None,
    deadline_s: float | None = None,
) -> Settings:
    """Make settings from options, then from the environment, then from the user's file."""
    return Settings.from_environment(
        get_environment() if environ is None else environ,
        names=OPTION_NAMES,
        base_url=common.base_url,
        base_urls=base_urls or None,
        service=common.service,
        log_level="DEBUG" if common.verbose >= DEBUG_VERBOSITY else None,
        model=model,
        timeout_s=timeout_s,
        deadline_s=deadline_s,
    )


def make_log_handler(
    common: GlobalOptions, environ: Mapping[str, str], *, default_level: int | None = None
) -> logging.Handler:
    """Make a handler that logs to standard error with -v, or if `environ` has a level.

    Without them it logs from a level on, or nothing.
    """
    is_asked_for = common.verbose or environ.get("FOUNDRY_LOG_LEVEL")
    if not is_asked_for and default_level is None:
        return logging.NullHandler()
    handler = logging.StreamHandler()
    if not is_asked_for and default_level is not None:
        handler.setLevel(default_level)
    handler.setFormatter(_LineFormatter(LOG_FORMAT))
    return handler


class _LineFormatter(logging.Formatter):
    """Indents continuation lines: text inside a record must not look like another record."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's
        record.message = sanitize_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the base class's
        return textwrap.indent(sanitize(super().formatException(ei)), INDENT)
