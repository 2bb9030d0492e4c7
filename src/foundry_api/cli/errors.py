"""How a failure is told: in words to people, in JSON to programs, and by the exit code to both."""

from __future__ import annotations

import logging
from typing import Any

import click

from foundry_api.cli.output import OutputError, print_json, sanitize, sanitize_line
from foundry_api.types.errors import (
    BatchInputInvalid,
    ConfigurationError,
    FoundryError,
    InvalidRequest,
)

__all__ = ["described", "exit_code", "report", "tell"]

FAILED = 1
WRONG_USAGE = 2
MOST_PROBLEMS = 20
"""Of a batch's input, so that what is above them stays on the screen. JSON has more."""


def report(error: Exception, *, as_json: bool) -> int:
    """Tell a failure, and return the exit code for it."""
    if as_json and not isinstance(error, OutputError):
        try:
            print_json({"error": described(error)})
        except OutputError as output:
            tell(error)
            tell(output)
    elif isinstance(error, click.ClickException):
        vars(error)["message"] = sanitize(error.message)  # typed as final; nobody else reads it
        error.show()
    else:
        tell(error)
    return exit_code(error)


def tell(error: Exception) -> None:
    """A failure in words, to standard error."""
    told = described(error)
    click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(sanitize(_sentence(error, told)).replace("\n", "\n  "), err=True)
    for problem in told.get("problems", ())[:MOST_PROBLEMS]:
        click.echo(f"  {sanitize_line(problem)}", err=True)
    if told["hint"]:
        click.echo(sanitize(told["hint"]), err=True)


def described(error: Exception) -> dict[str, Any]:
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
        return {"type": "UsageError", "message": error.format_message(), "hint": _help_of(error)}
    if isinstance(error, click.ClickException):
        return {"type": type(error).__name__, "message": error.format_message(), "hint": ""}
    if isinstance(error, OutputError):
        return {"type": type(error).__name__, "message": str(error), "hint": ""}
    return _unexpected(error)


def exit_code(error: Exception) -> int:
    """2 for what the user can set right by calling differently, else 1."""
    wrong_usage = isinstance(error, click.UsageError | InvalidRequest | ConfigurationError)
    return WRONG_USAGE if wrong_usage else FAILED


def _sentence(error: Exception, told: dict[str, Any]) -> str:
    """The message with the place of the failure, but without the hint, which has its own line."""
    if not isinstance(error, FoundryError):
        return f"{told['message'].rstrip('.')}."
    return str(error).removesuffix(error.hint).strip()


def _help_of(error: click.UsageError) -> str:
    return f"See `{error.ctx.command_path} --help`." if error.ctx else ""


def _unexpected(error: Exception) -> dict[str, Any]:
    """An error that nobody foresaw: a bug here, or an operating system in trouble."""
    logging.getLogger("foundry_api").debug("unexpected", exc_info=error)
    return {
        "type": type(error).__name__,
        "message": f"unexpected {type(error).__name__}: {error}",
        "hint": "This looks like a bug in foundry-api; run again with -vv to see where it is.",
    }
