"""The command `foundry-api` itself: help, version, and the import of a verb's module."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, cast

import click
import click.shell_completion

from foundry_api._version import __version__
from foundry_api.cli.options import common_options
from foundry_api.cli.verbs import VERBS
from foundry_api.types.local_path import decode_system_text

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["root", "run"]

PROGRAM = "foundry-api"
COMPLETE_VARIABLE = "_FOUNDRY_API_COMPLETE"

HELP = """Command line for Microsoft Foundry Local.

Works without setup: if no service is running, each command starts a temporary engine. The built-in
model `demo` needs no download.
"""

EPILOG = """\b
Examples:
  foundry-api chat --model demo "What is the capital of France?"
  foundry-api chat < question.txt    # use the default model, phi-4-mini
  foundry-api chat                   # start a conversation
  foundry-api models list --catalog  # list models that can be downloaded
  foundry-api up                     # keep an engine running: faster starts

\b
Exit codes:
  0    success
  1    failure; standard error says why, or standard output with --json
  2    usage error: an invalid option, argument or setting
  130  interrupted with Ctrl-C
`health`: 0 healthy, 1 degraded, 2 down. `doctor`: 1 if it found problems.

\b
Environment; `foundry-api config` keeps most of these in a file:
  FOUNDRY_MODEL            default model; phi-4-mini
  FOUNDRY_BASE_URL         URL of the service; by default it is discovered
  FOUNDRY_BASE_URLS        URLs of several services, separated by commas
  FOUNDRY_API_KEY          API key for that service, sent to no other
  FOUNDRY_TIMEOUT          seconds to wait for the next token; 30
  FOUNDRY_DEADLINE         seconds for a whole call; none
  FOUNDRY_CONNECT_TIMEOUT  seconds to connect; 5
  FOUNDRY_RETRIES          number of retries after a failed attempt; 3
  FOUNDRY_MODEL_IDLE       seconds until an unused model is unloaded; never
  FOUNDRY_MEMORY_BUDGET    MB of memory for loaded models; unlimited
  FOUNDRY_ENGINE_PROCESSES 2 allows another engine beside a busy one; 1
  FOUNDRY_ENGINE_THREADS   threads that compute one model; from the CPUs
  FOUNDRY_CACHE            response cache: memory, sqlite or a file; off
  FOUNDRY_LOG_LEVEL        log to standard error at this level; off
  FOUNDRY_HOME             directory for models, state and logs
"""


class VerbGroup(click.Group):
    """A group that imports a verb's module when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
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
        # Click would suggest only verbs that are imported, of which there are none.
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            raise click.exceptions.NoSuchCommand(name, possibilities=VERBS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[click.shell_completion.CompletionItem[str]]:
        # From the table, as above.
        verbs = [
            click.shell_completion.CompletionItem(verb, help=summary)
            for verb, summary in VERBS.items()
            if verb.startswith(incomplete)
        ]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # From the table: click would import every verb for its help text.
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


class Utf8ParamType(click.types.StringParamType):
    """Command-line text decoded as UTF-8, whatever the locale; see `decode_system_text`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return decode_system_text(super().convert(value, param, ctx))
        except ValueError:
            self.fail("it is not valid UTF-8.", param, ctx)


def _use_utf8(command: click.Command) -> None:
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
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code. Failures are raised."""
    if os.environ.get(COMPLETE_VARIABLE, "").startswith("powershell"):
        importlib.import_module("foundry_api.cli.completion")  # click knows the other shells
    try:
        # Passed explicitly, because click expands a `*` of sys.argv on Windows, also in a prompt.
        code = root.main(list(arguments), prog_name=PROGRAM, standalone_mode=False)
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return code if isinstance(code, int) else 0
