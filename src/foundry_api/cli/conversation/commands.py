"""The commands of a conversation: their names, what they take, and their help."""

from __future__ import annotations

import difflib
from typing import Literal, NamedTuple

__all__ = ["COMMANDS", "HELP", "Command", "CommandLine", "parse_command", "suggest_command"]


class Command(NamedTuple):
    """A command; `argument` is its name in the help, in brackets if it may be left out."""

    name: str
    argument: str
    summary: str
    completes: Literal["", "file", "model", "option"] = ""

    @property
    def usage(self) -> str:
        return f"{self.name} {self.argument}".rstrip()


class CommandLine(NamedTuple):
    """A line with a command: the name as it was typed, and the text after it."""

    word: str
    name: str
    argument: str


COMMANDS = {
    command.name: command
    for command in (
        Command("/help", "", "show this help"),
        Command("/edit", "", "write a message in your editor ($VISUAL or $EDITOR)"),
        Command("/file", "FILE", "send a text file with the next message", "file"),
        Command("/retry", "", "ask the last question again"),
        Command("/undo", "", "remove the last question and its answer"),
        Command("/reset", "", "remove all of them"),
        Command("/model", "[NAME]", "switch to another model, or show the current one", "model"),
        Command("/system", "[TEXT]", "set the system message, or show it"),
        Command("/set", "[NAME VALUE]", "set an option, or show all of them", "option"),
        Command("/think", "", "show the reasoning of the last answer"),
        Command("/stats", "", "show tokens and speed of the last answer"),
        Command("/save", "[FILE]", "save the conversation as JSON", "file"),
        Command("/load", "FILE", "continue a saved conversation", "file"),
        Command("/quit", "", "quit, as Ctrl-D does"),
    )
}
# The names in other programs, such as `ollama run`.
ALIASES = {"/exit": "/quit", "/bye": "/quit", "/clear": "/reset", "/?": "/help"}

_WIDTH = max(len(command.usage) for command in COMMANDS.values())
HELP = "\n".join(
    [
        *(f"{command.usage.ljust(_WIDTH)}  {command.summary}" for command in COMMANDS.values()),
        "",
        'Enter sends the message; Alt-Enter starts another line, as does Enter after """',
        'until the closing """. Pasted lines are one message. Ctrl-C stops an answer; at',
        "the prompt it clears the line, and pressed twice it quits.",
    ]
)


def parse_command(text: str) -> CommandLine | None:
    """Return the command of a message; None for text that is sent to the model."""
    word, *rest = text.split(maxsplit=1) or [""]
    # `/etc/hosts` is no command.
    if word != "/?" and not (word.startswith("/") and word[1:].isalpha()):
        return None
    name = word.lower()
    return CommandLine(word, ALIASES.get(name, name), rest[0].rstrip() if rest else "")


def suggest_command(name: str) -> str | None:
    """Return the command that is written most like a name that does not exist."""
    return next(iter(difflib.get_close_matches(name, COMMANDS, n=1)), None)
