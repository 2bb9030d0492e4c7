"""The options that every verb takes, before the verb or after it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["GlobalOptions", "common_options", "format_examples", "output_options", "pass_common"]

_F = TypeVar("_F", bound="Callable[..., Any]")


@dataclass(slots=True)
class GlobalOptions:
    """What the common options said.

    Attributes:
        base_url: Address of a service.
        service: Whether to search for a service or to start an engine.
        verbose: How often -v was given.
        as_json: Whether to print JSON.
    """

    base_url: str | None = None
    service: Literal["auto", "embedded"] | None = None
    verbose: int = 0
    as_json: bool = False


pass_common = click.make_pass_decorator(GlobalOptions, ensure=True)


def _store_option(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Remember an option's value; the one nearest to the verb's arguments wins."""
    common = context.ensure_object(GlobalOptions)
    if (value or value == "") and parameter.name:
        setattr(common, parameter.name, value)


_SERVICE = (
    click.option(
        "--base-url",
        metavar="URL",
        expose_value=False,
        callback=_store_option,
        help="Use the service at this address. [FOUNDRY_BASE_URL]",
    ),
    click.option(
        "--service",
        type=click.Choice(["auto", "embedded"]),
        expose_value=False,
        callback=_store_option,
        help="auto: a running service, else an engine of its own. embedded: its own.",
    ),
)
_OUTPUT = (
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        expose_value=False,
        callback=_store_option,
        help="Print JSON, errors too.",
    ),
    click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_store_option,
        help="Log to standard error; -vv for every detail.",
    ),
)


def common_options(command: _F) -> _F:
    """Give a command the options that all have that talk to a service."""
    return _apply_options((*_SERVICE, *_OUTPUT), _name_options_in_errors(command))


def output_options(command: _F) -> _F:
    """Give a command the options of output alone."""
    return _apply_options(_OUTPUT, _name_options_in_errors(command))


def _name_options_in_errors(command: _F) -> _F:
    """A command whose errors name its options, where they named arguments of Python."""

    @functools.wraps(command)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except ValueError as error:  # of which InvalidRequest is one, and `--help` needs no errors
            _name_option(error, click.get_current_context().command.params)
            raise

    return cast("_F", wrapper)


def _name_option(error: ValueError, parameters: Iterable[click.Parameter]) -> None:
    """Say `--max-tokens is …` where an error says `max_tokens is …`."""
    from foundry_api.types.errors import InvalidRequest  # noqa: PLC0415 - as above

    if not isinstance(error, InvalidRequest):
        return
    field = (error.field or "").partition("[")[0]
    for parameter in parameters:
        if isinstance(parameter, click.Option) and parameter.name == field:
            start, option = error.field or "", max(parameter.opts, key=len)
            if error.message.startswith(start):
                error.message = f"{option}{error.message.removeprefix(start)}"


def _apply_options(options: tuple[Callable[[_F], _F], ...], command: _F) -> _F:
    for option in reversed(options):
        command = option(command)
    return command


def format_examples(*lines: str) -> str:
    """An epilog of examples, which click must not reflow.

    Each is what follows the program's name, or a pipe to it.
    """
    commands = (line if "| foundry-api " in line else f"foundry-api {line}" for line in lines)
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in commands)])
