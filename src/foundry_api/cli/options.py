"""The options of every verb, which may stand before the verb or after it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import click

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "GlobalOptions",
    "apply_options",
    "common_options",
    "complete_models",
    "complete_templates",
    "format_examples",
    "name_options",
    "output_options",
    "pass_common",
]

_F = TypeVar("_F", bound="Callable[..., Any]")

NOTE = "  # "
NOTE_END = 80 - len("    ") - len(NOTE)


@dataclass(slots=True)
class GlobalOptions:
    """Values of the common options.

    Attributes:
        base_url: URL of the service; None to discover it.
        service: Whether to discover a service or to start an engine.
        verbose: How many times -v was given.
        as_json: Whether to print JSON.
    """

    base_url: str | None = None
    service: Literal["auto", "embedded"] | None = None
    verbose: int = 0
    as_json: bool = False


pass_common = click.make_pass_decorator(GlobalOptions, ensure=True)


def _store_option(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # An option that is not given after the verb must not reset the one before the verb.
    common = context.ensure_object(GlobalOptions)
    if (value or value == "") and parameter.name:
        setattr(common, parameter.name, value)


_SERVICE = (
    click.option(
        "--base-url",
        metavar="URL",
        expose_value=False,
        callback=_store_option,
        help="URL of the service. [FOUNDRY_BASE_URL, else discovered]",
    ),
    click.option(
        "--service",
        type=click.Choice(["auto", "embedded"]),
        expose_value=False,
        callback=_store_option,
        help="auto: a running service, else a temporary engine. embedded: a temporary engine.",
    ),
)
_OUTPUT = (
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        expose_value=False,
        callback=_store_option,
        help="Print JSON, including errors.",
    ),
    click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_store_option,
        help="Log to standard error; -vv logs every detail.",
    ),
)


def common_options(command: _F) -> _F:
    """Add the options of commands that use a service."""
    return apply_options((*_SERVICE, *_OUTPUT), _name_options_in_errors(command))


def output_options(command: _F) -> _F:
    """Add the options of commands that use no service."""
    return apply_options(_OUTPUT, _name_options_in_errors(command))


def apply_options(options: tuple[Callable[[_F], _F], ...], command: _F) -> _F:
    """Apply decorators of click; `--help` lists the options in the order of the tuple."""
    for option in reversed(options):
        command = option(command)
    return command


def _name_options_in_errors(command: _F) -> _F:
    """Have errors say `--max-tokens is ...` instead of `max_tokens is ...`."""

    @functools.wraps(command)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except Exception as error:
            name_options(error, click.get_current_context().command)
            raise

    return cast("_F", wrapper)


def name_options(error: Exception, command: click.Command) -> None:
    """Have an error and its hint speak of the options of a command, not of Python arguments."""
    # `--help` must not import them.
    from foundry_api.cli.hints import adapt_hint  # noqa: PLC0415
    from foundry_api.types.errors import FoundryError, InvalidRequest  # noqa: PLC0415

    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    if isinstance(error, FoundryError) and error.hint not in {"", InvalidRequest.default_hint}:
        error.hint = adapt_hint(error.hint, {name for option in options for name in option.opts})
    if not isinstance(error, InvalidRequest):
        return
    field = (error.field or "").partition("[")[0]
    for parameter in options:
        if parameter.name == field:
            start, option = error.field or "", max(parameter.opts, key=len)
            if error.message.startswith(start):
                error.message = f"{option}{error.message.removeprefix(start)}"


def complete_models(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Complete the names of the models of this machine, from files."""
    del context, parameter
    # Imported in a shell's completion only.
    from foundry_api.engine.models.local_names import list_local_names  # noqa: PLC0415
    from foundry_api.storage.paths import Paths  # noqa: PLC0415
    from foundry_api.types.errors import FoundryError  # noqa: PLC0415
    from foundry_api.types.settings import Settings  # noqa: PLC0415

    try:
        home = Settings.from_environment().home  # which is not in the user's file
        names = list_local_names(Paths.from_home(home))
    except (FoundryError, OSError, ValueError):
        return []
    return [name for name in names if name.lower().startswith(incomplete.lower())]


def complete_templates(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Complete the names of the user's prompt templates."""
    del context, parameter
    from foundry_api.cli.template_files import list_templates  # noqa: PLC0415 - as above
    from foundry_api.types.errors import FoundryError  # noqa: PLC0415 - as above

    try:
        return [name for name in list_templates() if name.startswith(incomplete)]
    except (FoundryError, OSError, ValueError):
        return []


def format_examples(*lines: str) -> str:
    """Format an epilog of examples.

    Each line has what follows `foundry-api`, or a pipe to it. A note may follow after two spaces
    and a `#`, so that a shell ignores it; notes are aligned if they fit 80 columns.
    """
    rows = [line.partition(NOTE) for line in lines]
    commands = [line if "| foundry-api " in line else f"foundry-api {line}" for line, _, _ in rows]
    column = max((len(text) for text, row in zip(commands, rows, strict=True) if row[2]), default=0)
    texts = [
        f"{text.ljust(min(column, NOTE_END - len(row[2])))}{NOTE}{row[2]}" if row[2] else text
        for text, row in zip(commands, rows, strict=True)
    ]
    return "\n".join(["\b", "Examples:", *(f"  {text}" for text in texts)])  # \b: no reflow
