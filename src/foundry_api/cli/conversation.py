"""A conversation on the terminal: its history and its commands."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from foundry_api.types.errors import FoundryError
from foundry_api.types.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Conversation"]

HELP = """\
/model NAME   switch to another model; without NAME, show the current one
/system TEXT  set the system message; without TEXT, show it
/reset        clear the conversation
/quit         quit, as Ctrl-D does
Ctrl-C stops an answer."""

# `/exit` and `/bye` are the names in other programs, such as `ollama run`.
EXIT_COMMANDS = frozenset({"/quit", "/exit", "/bye"})
COMMANDS_WITHOUT_ARGUMENT = EXIT_COMMANDS | {"/help", "/reset"}
SUGGESTED_COMMANDS = ("/help", "/model", "/quit", "/reset", "/system")


class Conversation:
    """Reads lines and answers them until the user quits.

    Args:
        model: The first model.
        system: The system message.
        complete: Prints a model's answer and returns its text, also of an interrupted answer; None
            if nothing arrived. Raises FoundryError.
        select_model: Makes sure that a model can be used. Raises FoundryError.
        read: Returns the next line; raises EOFError or KeyboardInterrupt when the user quits.
        echo: Prints a message that is not part of an answer.
        echo_error: Prints an error.
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
        self._commands: dict[str, Callable[[str], object]] = {
            "/help": lambda _: self._echo(HELP),
            "/model": self._set_model,
            "/system": self._set_system,
            "/reset": self._reset,
        }

    def run(self) -> None:
        """Run until the user quits with /quit, Ctrl-D, or Ctrl-C at the prompt."""
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
            if not (word.startswith("/") and word[1:].isalpha()):  # `/etc/hosts` is no command
                self._send(line)
            elif rest and word.lower() in COMMANDS_WITHOUT_ARGUMENT:
                self._echo(f"{word} takes no argument: enter {word.lower()} alone.")
            elif command := self._commands.get(word.lower()):
                command(rest)
            else:
                close = difflib.get_close_matches(word.lower(), SUGGESTED_COMMANDS, n=1)
                suggestion = f" (did you mean {close[0]}?)" if close else ""
                self._echo(f"There is no command {word}{suggestion}; /help lists commands.")
        except FoundryError as error:
            self._echo_error(error)

    def _send(self, text: str) -> None:
        # An incomplete answer stays in the history, so that the user can continue from it. So does
        # a question whose answer is empty, such as after reasoning without an answer.
        question = Message("user", text)
        reply: str | None = None
        try:
            system = [Message("system", self.system)] if self.system else []
            reply = self._complete(self.model, [*system, *self.messages, question])
        except FoundryError as error:
            reply = error.partial or None
            raise
        finally:
            if reply is not None:
                self.messages.append(question)
            if reply and not reply.isspace():  # services refuse empty messages
                self.messages.append(Message("assistant", reply))

    def _set_model(self, name: str) -> None:
        if name:
            self._select_model(name)
            self.model = name
        self._echo(f"The model is {self.model}.")

    def _set_system(self, text: str) -> None:
        if text:
            self.system = text
        self._echo(
            f"The system message is: {self.system}"
            if self.system
            else "There is no system message."
        )

    def _reset(self, _: str) -> None:
        self.messages.clear()
        self._echo("The conversation is cleared.")
