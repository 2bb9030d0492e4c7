"""Reports failures as text or JSON, and decides the exit code."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from foundry_api.cli.output import print_json, print_notice, sanitize, sanitize_line, wrap_words
from foundry_api.cli.streams import OutputError
from foundry_api.types.errors import (
    BatchInputInvalid,
    ConfigurationError,
    FoundryError,
    InvalidRequest,
)

__all__ = ["get_exit_code", "print_error", "report_error", "to_json"]

EXIT_FAILED = 1
EXIT_USAGE = 2
PREFIX = "Error: "
# Of the input of a batch: more would scroll the message above them away. JSON has all of them.
MAX_PROBLEMS = 20


def report_error(error: Exception, *, as_json: bool) -> int:
    """Report a failure, and return its exit code."""
    if as_json and not isinstance(error, OutputError):
        try:
            print_json({"error": to_json(error)})
        except OutputError as output:
            print_error(error)
            print_error(output)
    elif isinstance(error, click.ClickException):
        vars(error)["message"] = sanitize(error.message)  # typed as final, but `show` prints it
        error.show()
    else:
        print_error(error)
    return get_exit_code(error)


def print_error(error: Exception) -> None:
    """Print a failure to standard error."""
    members = to_json(error)
    if isinstance(error, FoundryError):
        message = str(error).removesuffix(error.hint).strip()  # the hint has its own line
    else:
        message = f"{members['message'].rstrip('.')}."
    text = wrap_words(f"{PREFIX}{sanitize(message)}".replace("\n", "\n  "), sys.stderr)
    click.secho(PREFIX, fg="red", bold=True, nl=False, err=True)
    click.echo(text.removeprefix(PREFIX), err=True)
    for problem in members.get("problems", ())[:MAX_PROBLEMS]:
        print_notice(f"  {sanitize_line(problem)}")
    # The general hint is for programs: here, no call has an argument.
    if members["hint"] and members["hint"] != InvalidRequest.default_hint:
        print_notice(members["hint"])


def to_json(error: Exception) -> dict[str, Any]:
    if isinstance(error, FoundryError):
        extra: dict[str, Any] = {"partial": error.partial} if error.partial else {}
        if isinstance(error, BatchInputInvalid):
            extra["problems"] = error.problems
        return {
            "type": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "model": error.model,
            "service": error.service,
            "status": error.status,
            "attempts": error.attempts,
            **extra,
        }
    if isinstance(error, click.UsageError):
        hint = f"See `{error.ctx.command_path} --help`." if error.ctx else ""
        return {"type": "UsageError", "message": error.format_message(), "hint": hint}
    if isinstance(error, click.ClickException):
        return {"type": type(error).__name__, "message": error.format_message(), "hint": ""}
    if isinstance(error, OutputError):
        return {"type": type(error).__name__, "message": str(error), "hint": ""}
    # A bug here, or a failure of the operating system.
    logging.getLogger("foundry_api").debug("unexpected", exc_info=error)
    return {
        "type": type(error).__name__,
        "message": f"unexpected {type(error).__name__}: {error}",
        "hint": "This looks like a bug in foundry-api; run again with -vv to see where it is.",
    }


def get_exit_code(error: Exception) -> int:
    """Return 2 for errors that another command line or setting would avoid, else 1."""
    wrong_usage = isinstance(error, click.UsageError | InvalidRequest | ConfigurationError)
    return EXIT_USAGE if wrong_usage else EXIT_FAILED
