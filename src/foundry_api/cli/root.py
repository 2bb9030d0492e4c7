"""The command without a verb: help, version, and which module a verb is in."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, cast

import click

from foundry_api._version import __version__
from foundry_api.cli.options import common_options
from foundry_api.cli.verbs import VERBS
from foundry_api.types.local_path import decode_system_text

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["root", "run"]

PROGRAM = "foundry-api"

HELP = """Microsoft Foundry Local from the command line.

Works at once: without a running service it starts an engine of its own for as long as the command
takes, and the model `demo` is always there.
"""

EPILOG = """\b
Examples:
  foundry-api chat --model demo "What is the capital of France?"
  foundry-api chat < question.txt        the default model, FOUNDRY_MODEL or phi-4-mini
  foundry-api chat                       a conversation
  foundry-api models list --catalog      what could be downloaded
  foundry-api up                         an engine that stays: later commands start faster

\b
Exit codes:
  0    done
  1    failed; what and why is on standard error, or on standard output with --json
  2    wrong usage: an option, an argument, a setting
  130  interrupted with Ctrl-C
`health` has its own: 0 healthy, 1 degraded, 2 down. `doctor`: 1 problems were found.

\b
Environment:
  FOUNDRY_MODEL          model of calls that name none; phi-4-mini
  FOUNDRY_BASE_URL       service to use instead of searching for one
  FOUNDRY_API_KEY        sent to that service, and to no other
  FOUNDRY_TIMEOUT        seconds without a token before a call gives up; 30
  FOUNDRY_RETRIES        further attempts after a failed one; 3
  FOUNDRY_MODEL_IDLE     seconds after which an unused model leaves memory; never
  FOUNDRY_MEMORY_BUDGET  MB that the models in memory may take; no bound
  FOUNDRY_CACHE          keep answers: memory, sqlite, or the path of a file; off
  FOUNDRY_LOG_LEVEL      set, it turns on logs, to standard error
  FOUNDRY_HOME           directory for models, state and logs instead of the user's own
"""


class VerbGroup(click.Group):
    """A group that imports a verb's module when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of the table."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, from its module."""
        del ctx
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"foundry_api.cli.{cmd_name}")
        command = cast("click.Command", module.command)
        _use_utf8(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, but the nearest verbs are told: click knows only imported ones."""
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            raise click.exceptions.NoSuchCommand(name, possibilities=VERBS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, instead of each verb's own help."""
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


class Utf8ParamType(click.types.StringParamType):
    """Text from the command line; see `decode_system_text`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text.

        Raises:
            BadParameter: It is not UTF-8.
        """
        try:
            return decode_system_text(super().convert(value, param, ctx))
        except ValueError:
            self.fail("it is not text in UTF-8.", param, ctx)


def _use_utf8(command: click.Command) -> None:
    """Give all parameters that are plain text the type above."""
    for parameter in command.params:
        if parameter.type is click.STRING:
            parameter.type = Utf8ParamType()
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            _use_utf8(subcommand)


@click.group(
    cls=VerbGroup,
    help=HELP,
    epilog=EPILOG,
    invoke_without_command=True,
    subcommand_metavar="VERB [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message=f"{PROGRAM} {__version__}")
@common_options
@click.pass_context
def root(context: click.Context) -> None:
    """Without a verb, tell which there are."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run the command line, and return the exit code. Failures are raised."""
    try:
        # Given explicitly, they are not expanded on Windows, where a prompt may hold a `*`.
        code = root.main(list(arguments), prog_name=PROGRAM, standalone_mode=False)
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return code if isinstance(code, int) else 0
