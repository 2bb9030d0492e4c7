"""A conversation: its history, and the commands that steer it."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from foundry_api.types.errors import FoundryError
from foundry_api.types.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Conversation"]

HELP = """\
/model NAME   go on with another model; without NAME, tell which it is
/system TEXT  set the instructions; without TEXT, tell them
/reset        forget the conversation so far
/quit         leave, as Ctrl-D does
Ctrl-C stops an answer."""


EXIT_COMMANDS = frozenset({"/quit", "/exit", "/bye"})
"""`/exit` and `/bye` are what other programs call it."""

COMMANDS_WITHOUT_ARGUMENT = EXIT_COMMANDS | {"/help", "/reset"}
"""Commands with nothing behind them."""


class Conversation:
    """Reads what the user says until they leave.

    Args:
        model: The model to begin with.
        system: Instructions ahead of the conversation.
        answer: Says a model's answer to messages, and returns its text, also when the user
            interrupted it; None for one of which nothing arrived. Raises FoundryError.
        choose: Makes sure that a model can answer. Raises FoundryError.
        read: The next line; EOFError or KeyboardInterrupt when the user leaves.
        tell: Says something that is not part of an answer.
        fail: Tells an error.
    """

    def __init__(
        self,
        *,
        model: str,
        system: str | None,
        complete: Callable[[str, Sequence[Message]], str | None],
        select_model: Callable[[str], object],
        read: Callable[[], str],
        echo: Callable[[str], object],
        echo_error: Callable[[FoundryError], object],
    ) -> None:
        self.model = model
        self.system = system
        self.messages: list[Message] = []
        self._complete = complete
        self._select_model = select_model
        self._read = read
        self._echo = echo
        self._echo_error = echo_error
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": self._print_help,
            "/model": self._set_model,
            "/system": self._set_system,
            "/reset": self._reset,
        }

    def run(self) -> None:
        """Talk until the user leaves, with /quit, Ctrl-D or Ctrl-C at the prompt."""
        while True:
            try:
                line = self._read().strip()
            except (EOFError, KeyboardInterrupt):
                self._echo("")
                return
            if line.lower() in EXIT_COMMANDS:
                return
            if line:
                self._handle_line(line)

    def _handle_line(self, line: str) -> None:
        word, *arguments = line.split(maxsplit=1)
        rest = arguments[0] if arguments else ""
        try:
            if not _is_command(word):
                self._ask(line)
            elif rest and word.lower() in COMMANDS_WITHOUT_ARGUMENT:
                self._echo(f"{word} takes nothing behind it: enter {word.lower()} alone.")
            elif command := self._commands.get(word.lower()):
                command(rest)
            else:
                self._echo(f"There is no {word}{_suggest(word)}; /help lists what there is.")
        except FoundryError as error:
            self._echo_error(error)

    def _ask(self, text: str) -> None:
        """One exchange. What was said of a broken answer stays, so that the user can go on.

        So does a question whose answer has no text, as of a model that only thinks.
        """
        question = Message("user", text)
        reply: str | None = None
        try:
            reply = self._complete(self.model, [*self._system_messages(), *self.messages, question])
        except FoundryError as error:
            reply = error.partial or None
            raise
        finally:
            if reply is not None:
                self.messages.append(question)
            if reply and not reply.isspace():  # services refuse empty messages
                self.messages.append(Message("assistant", reply))

    def _system_messages(self) -> list[Message]:
        return [Message("system", self.system)] if self.system else []

    def _print_help(self, _: str) -> None:
        self._echo(HELP)

    def _set_model(self, name: str) -> None:
        if name:
            self._select_model(name)
            self.model = name
        self._echo(f"The model is {self.model}.")

    def _set_system(self, text: str) -> None:
        if text:
            self.system = text
        self._echo(f"The instructions are: {self.system}" if self.system else "No instructions.")

    def _reset(self, _: str) -> None:
        self.messages.clear()
        self._echo("The conversation starts anew.")


def _suggest(word: str) -> str:
    """What somebody may have meant, as part of a sentence."""
    known = ("/help", "/model", "/quit", "/reset", "/system")
    close = difflib.get_close_matches(word.lower(), known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _is_command(word: str) -> bool:
    """Whether a word is meant as a command: `/etc/hosts` is not."""
    return word.startswith("/") and word[1:].isalpha()
