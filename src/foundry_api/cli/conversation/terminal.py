"""Connects a conversation with the terminal and the client."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from foundry_api.cli import errors
from foundry_api.cli.chat_runner import Answer, print_end
from foundry_api.cli.conversation.completion import CommandCompleter
from foundry_api.cli.conversation.options import OPTION_NAMES
from foundry_api.cli.conversation.prompt import (
    PROMPT,
    PromptInterrupted,
    make_prompt,
    silence_keyboard,
)
from foundry_api.cli.options import name_options
from foundry_api.cli.output import is_terminal, print_notice, sanitize
from foundry_api.cli.printer import get_width
from foundry_api.cli.reasoning import FullReasoning
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from foundry_api.cli.chat_runner import ChatRunner
    from foundry_api.cli.printer import AnswerPrinter
    from foundry_api.core.options import CompletionOptions
    from foundry_api.types.messages import Message
    from foundry_api.types.models import Model

__all__ = ["TerminalIO"]


LIMIT_OPTION = "/set max_tokens"


class TerminalIO:
    """Reads messages at a prompt, and prints answers.

    Args:
        runner: Calls models.
        make_printer: Returns the printer of an answer; the argument says whether it shows the
            reasoning.
        history_path: File of the history; None keeps it in memory.
    """

    def __init__(
        self,
        runner: ChatRunner,
        make_printer: Callable[[bool], AnswerPrinter],
        history_path: Path | None,
    ) -> None:
        self._runner = runner
        self._make_printer = make_printer
        self._models: list[str] | None = None
        self._prompt = None
        if is_terminal(sys.stdout) or is_terminal(sys.stderr):
            self._prompt = make_prompt(CommandCompleter(lambda: self._models or ()), history_path)

    def read(self, default: str) -> str:
        if self._prompt is None:
            click.echo(PROMPT, nl=False, err=True)
            try:
                return input()
            except EOFError:
                self.echo("")
                raise
        if self._models is None:
            self._models = self._list_models()
        try:
            # On the event loop of the client, which keeps its connections and models meanwhile.
            return self._runner.session.run(self._prompt.prompt_async(default=default))
        except PromptInterrupted:
            raise KeyboardInterrupt from None

    def edit(self) -> str:
        return click.edit("", extension=".md") or ""

    def answer(
        self, model: str, messages: Sequence[Message], options: CompletionOptions, *, think: bool
    ) -> Answer | None:
        printer = self._make_printer(think)
        # Ctrl-C stops the answer, but not the conversation.
        with contextlib.suppress(KeyboardInterrupt, click.Abort), silence_keyboard():
            answer = self._runner.print_answer(model, messages, printer, options)
            print_end(options, answer.last, printer, limit_option=LIMIT_OPTION)
            self.echo("")
            return answer
        if not printer.has_begun:
            self.echo("Stopped before an answer.")
            return None
        self.echo("Stopped.")
        return Answer(printer.text, reasoning=printer.reasoning)

    def load_model(self, name: str) -> Model:
        return self._runner.load_model(name)

    def echo(self, text: str) -> None:
        print_notice(text)

    def show_reasoning(self, text: str) -> None:
        view = FullReasoning(get_width)
        view.write(sanitize(text.strip()))
        view.end()

    def echo_error(self, error: Exception) -> None:
        # Not raised through the command, which would do this. Options of `/set` keep the names
        # that it has for them.
        flags = [
            parameter
            for parameter in click.get_current_context().command.params
            if parameter.name not in OPTION_NAMES
        ]
        name_options(error, click.Command("chat", params=flags))
        errors.print_error(error)

    def _list_models(self) -> list[str]:
        with contextlib.suppress(FoundryError):
            models = self._runner.session.run(self._runner.session.client.models.list())
            return sorted({model.alias for model in models})
        return []
