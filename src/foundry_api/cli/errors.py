"""How a failure is told: in words to people, in JSON to programs, and by the exit code to both."""

from __future__ import annotations

import logging
from typing import Any

import click

from foundry_api.cli.output import print_json, sanitize, sanitize_line
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
MAX_PROBLEMS = 20
"""Of a batch's input, so that what is above them stays on the screen. JSON has more."""


def report_error(error: Exception, *, as_json: bool) -> int:
    """Tell a failure, and return the exit code for it."""
    if as_json and not isinstance(error, OutputError):
        try:
            print_json({"error": to_json(error)})
        except OutputError as output:
            print_error(error)
            print_error(output)
    elif isinstance(error, click.ClickException):
        vars(error)["message"] = sanitize(error.message)  # typed as final; nobody else reads it
        error.show()
    else:
        print_error(error)
    return get_exit_code(error)


def print_error(error: Exception) -> None:
    """A failure in words, to standard error."""
    members = to_json(error)
    click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(sanitize(_format_message(error, members)).replace("\n", "\n  "), err=True)
    for problem in members.get("problems", ())[:MAX_PROBLEMS]:
        click.echo(f"  {sanitize_line(problem)}", err=True)
    if members["hint"]:
        click.echo(sanitize(members["hint"]), err=True)


def to_json(error: Exception) -> dict[str, Any]:
    """A failure as JSON: type, message, hint, and what else is known of it."""
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
        return {"type": "UsageError", "message": error.format_message(), "hint": _get_help(error)}
    if isinstance(error, click.ClickException):
        return {"type": type(error).__name__, "message": error.format_message(), "hint": ""}
    if isinstance(error, OutputError):
        return {"type": type(error).__name__, "message": str(error), "hint": ""}
    return _wrap_unexpected(error)


def get_exit_code(error: Exception) -> int:
    """2 for what the user can set right by calling differently, else 1."""
    wrong_usage = isinstance(error, click.UsageError | InvalidRequest | ConfigurationError)
    return EXIT_USAGE if wrong_usage else EXIT_FAILED


def _format_message(error: Exception, members: dict[str, Any]) -> str:
    """The message with the place of the failure, but without the hint, which has its own line."""
    if not isinstance(error, FoundryError):
        return f"{members['message'].rstrip('.')}."
    return str(error).removesuffix(error.hint).strip()


def _get_help(error: click.UsageError) -> str:
    return f"See `{error.ctx.command_path} --help`." if error.ctx else ""


def _wrap_unexpected(error: Exception) -> dict[str, Any]:
    """An error that nobody foresaw: a bug here, or an operating system in trouble."""
    logging.getLogger("foundry_api").debug("unexpected", exc_info=error)
    return {
        "type": type(error).__name__,
        "message": f"unexpected {type(error).__name__}: {error}",
        "hint": "This looks like a bug in foundry-api; run again with -vv to see where it is.",
    }
