"""`foundry-api logs`: the prompts and conversations that were logged."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING

import click
import msgspec

from foundry_api.cli.chat_log import ChatLog
from foundry_api.cli.options import GlobalOptions, format_examples, output_options, pass_common
from foundry_api.cli.output import is_terminal, print_json, print_notice, print_table, sanitize
from foundry_api.cli.printer import AnswerPrinter
from foundry_api.cli.session import make_settings
from foundry_api.observe.format import format_age, format_count, parse_duration
from foundry_api.storage.paths import Paths

if TYPE_CHECKING:
    from foundry_api.cli.chat_log import LoggedConversation

__all__ = ["command"]

COLUMNS = ("ID", "WHEN", "MODEL", "TURNS", "FIRST QUESTION")
MIN_QUESTION = 20
PIPE_WIDTH = 120
TURN_ON = "Turn the log on with `foundry-api config set logs on`."

EPILOG = format_examples(
    "config set logs on           # nothing is logged before that",
    "logs",
    "logs show",
    "logs search mountain",
    "logs prune --older-than 30d",
    "chat -c                      # continue the last conversation",
)
LIMIT = click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Number of conversations, the newest first.",
)


@click.group("logs", epilog=EPILOG, invoke_without_command=True)
@output_options
@pass_common
@click.pass_context
def command(context: click.Context, common: GlobalOptions) -> None:
    """Show logged prompts and conversations.

    Nothing is logged unless you turn that on. The log is a file that only you can read. Without a
    command, lists conversations. For what the engine logs, see `engine logs`.
    """
    if context.invoked_subcommand is None:
        _print_list(common, 20)


@command.command("list", epilog=format_examples("logs list", "logs list -n 100 --json"))
@LIMIT
@output_options
@pass_common
def list_command(common: GlobalOptions, *, limit: int) -> None:
    """List conversations, the newest first. A single prompt is one of a single turn."""
    _print_list(common, limit)


@command.command(
    "search", epilog=format_examples("logs search mountain", "logs search --json Bern")
)
@click.argument("term")
@LIMIT
@output_options
@pass_common
def search_command(common: GlobalOptions, term: str, *, limit: int) -> None:
    """List the conversations with a text in a question or an answer."""
    _print_list(common, limit, term)


@command.command("show", epilog=format_examples("logs show", "logs show 12", "logs show --json"))
@click.argument("number", metavar="[ID]", type=int, required=False)
@output_options
@pass_common
def show_command(common: GlobalOptions, number: int | None) -> None:
    """Show a conversation; without ID, the last one."""
    log = _find_log(common)
    if not log.exists:
        print_notice(f"No conversation is logged. {TURN_ON}")
        raise click.exceptions.Exit(1)
    conversation = log.load(number)
    if common.as_json:
        print_json(
            {
                "id": conversation.id,
                "model": conversation.model,
                "system": conversation.system or None,
                "options": conversation.options,
                "messages": conversation.messages,
            }
        )
    else:
        _print_conversation(conversation)


@command.command("prune", epilog=format_examples("logs prune --older-than 30d", "logs prune --all"))
@click.option("--older-than", metavar="AGE", help="Age of the conversations, such as 12h or 30d.")
@click.option("--all", "is_all", is_flag=True, help="Delete all conversations, and the file.")
@output_options
@pass_common
def prune_command(common: GlobalOptions, *, older_than: str | None, is_all: bool) -> None:
    """Delete conversations. What is deleted does not stay in the file."""
    if (older_than is None) == (not is_all):
        raise click.UsageError("Give either --older-than or --all.")
    log = _find_log(common)
    deleted = 0
    if older_than is not None:
        seconds = parse_duration(older_than, "older_than")
        deleted = log.prune(time.time() - seconds) if log.exists else 0
    elif log.exists:
        deleted = log.remove()
    if common.as_json:
        print_json({"deleted": deleted})
    else:
        click.echo(f"Deleted {format_count(deleted, 'conversation')}.")


def _find_log(common: GlobalOptions) -> ChatLog:
    return ChatLog(Paths.from_home(make_settings(common).home).chat_log_file)


def _print_list(common: GlobalOptions, limit: int, term: str = "") -> None:
    log = _find_log(common)
    found = log.list(limit, term) if log.exists else []
    if common.as_json:
        print_json({"conversations": [msgspec.to_builtins(summary) for summary in found]})
    elif found:
        now = time.time()
        rows = [
            [
                str(summary.id),
                format_age(now - summary.updated),
                summary.model,
                str(summary.turns),
            ]
            for summary in found
        ]
        width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else PIPE_WIDTH
        taken = sum(max(map(len, column)) + 2 for column in zip(*rows, COLUMNS[:4], strict=True))
        room = max(width - taken, MIN_QUESTION)
        print_table(
            COLUMNS,
            [
                (*row, _shorten(summary.question, room))
                for row, summary in zip(rows, found, strict=True)
            ],
        )
    elif log.exists:
        click.echo(f"No conversation has {term!r}." if term else "No conversation is logged.")
    else:
        click.echo(f"No conversation is logged. {TURN_ON}")


def _print_conversation(conversation: LoggedConversation) -> None:
    if conversation.system:
        click.secho(sanitize(f"system: {conversation.system}\n"), dim=True)
    for message in conversation.messages:
        if message.role == "user":
            click.secho("> ", bold=True, nl=False)
            click.echo(sanitize(message.content).replace("\n", "\n  "))
        elif message.role == "tool":
            click.secho(sanitize(message.content), dim=True)
        elif message.content:
            printer = AnswerPrinter()
            printer.write(message.content)
            printer.finish()
            click.echo()


def _shorten(text: str, room: int) -> str:
    line = " ".join(text[: 4 * room].split())
    return line if len(line) <= room and len(text) <= 4 * room else f"{line[: room - 3]}..."
