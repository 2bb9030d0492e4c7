"""The options that every verb takes, before the verb or after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Common", "common_options", "examples", "output_options", "pass_common"]

_F = TypeVar("_F", bound="Callable[..., Any]")


@dataclass(slots=True)
class Common:
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


pass_common = click.make_pass_decorator(Common, ensure=True)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Remember an option's value; the one nearest to the verb's arguments wins."""
    common = context.ensure_object(Common)
    if value and parameter.name:
        setattr(common, parameter.name, value)


_SERVICE = (
    click.option(
        "--base-url",
        metavar="URL",
        expose_value=False,
        callback=_keep,
        help="Use the service at this address. [FOUNDRY_BASE_URL]",
    ),
    click.option(
        "--service",
        type=click.Choice(["auto", "embedded"]),
        expose_value=False,
        callback=_keep,
        help="auto: a running service, else an engine of its own. embedded: its own.",
    ),
)
_OUTPUT = (
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        expose_value=False,
        callback=_keep,
        help="Print JSON, errors too.",
    ),
    click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_keep,
        help="Log to standard error; -vv for every detail.",
    ),
)


def common_options(command: _F) -> _F:
    """Give a command the options that all have that talk to a service."""
    return _with((*_SERVICE, *_OUTPUT), command)


def output_options(command: _F) -> _F:
    """Give a command the options of output alone."""
    return _with(_OUTPUT, command)


def _with(options: tuple[Callable[[_F], _F], ...], command: _F) -> _F:
    for option in reversed(options):
        command = option(command)
    return command


def examples(*lines: str) -> str:
    """An epilog of examples, which click must not reflow."""
    return "\n".join(["\b", "Examples:", *(f"  foundry-api {line}" for line in lines)])
