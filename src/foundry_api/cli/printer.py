"""Prints the answer of a model while it arrives."""

from __future__ import annotations

import sys
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

import click

from foundry_api.cli.downloads import retry_after_download
from foundry_api.cli.output import is_terminal, sanitize
from foundry_api.cli.spinner import Spinner
from foundry_api.core.options import ChatOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.cli.session import Session
    from foundry_api.types.messages import Chunk, Completion, Message
    from foundry_api.types.models import Model

__all__ = ["AnswerPrinter", "ChatRunner"]


class AnswerPrinter:
    """Prints one answer, and has the text that was printed before an interruption."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._parts: list[str] = []
        self._in_reasoning = False
        self.has_begun = False  # whether text or reasoning has arrived

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def write_reasoning(self, text: str) -> None:
        # Dimmed, and only on a terminal: a pipe or a file gets the answer alone.
        self.has_begun = self.has_begun or bool(text)
        if text and is_terminal(sys.stderr) and is_terminal(self._stream):
            if not self._in_reasoning:
                self._in_reasoning = True
                click.secho("", dim=True, reset=False, nl=False, err=True)
            click.echo(sanitize(text), nl=False, err=True)

    def write(self, text: str) -> None:
        self._end_reasoning()
        self._parts.append(text)
        self.has_begun = self.has_begun or bool(text)
        # A terminal would execute control sequences; a pipe gets the text unchanged.
        self._stream.write(sanitize(text) if is_terminal(self._stream) else text)
        self._stream.flush()

    def finish(self) -> None:
        """End the last line, unless the answer ended it or is empty."""
        self._end_reasoning()
        if self._parts and not self._parts[-1].endswith("\n"):
            self._stream.write("\n")
            self._stream.flush()

    def _end_reasoning(self) -> None:
        if self._in_reasoning:
            self._in_reasoning = False
            click.secho("\n", reset=True, err=True)


@dataclass(frozen=True, slots=True)
class ChatRunner:
    """Calls a model and prints its answers; downloads the model first where needed."""

    session: Session
    options: ChatOptions = field(default_factory=ChatOptions)
    stream: bool = True
    yes: bool = False  # download a missing model without asking
    ask: bool = True  # ask on a terminal before a download

    def print_answer(
        self, model: str, messages: Sequence[Message], printer: AnswerPrinter
    ) -> Chunk | Completion | None:
        """Print an answer; return its last chunk or completion, which has the finish reason."""
        print_answer = self._print_stream if self.stream else self._print_completion
        try:
            return retry_after_download(
                self.session,
                lambda: print_answer(model, messages, printer),
                yes=self.yes,
                ask=self.ask,
            )
        finally:
            printer.finish()

    def complete(self, model: str, messages: Sequence[Message]) -> Completion:
        return retry_after_download(
            self.session,
            lambda: self._complete(model, messages),
            yes=self.yes,
            ask=self.ask,
            description=f"Waiting for {model} ...",
        )

    def load_model(self, model: str) -> Model:
        return retry_after_download(
            self.session,
            lambda: self.session.client.models.load(model),
            yes=self.yes,
            ask=self.ask,
            description=f"Loading {model} ...",
        )

    async def _print_stream(
        self, model: str, messages: Sequence[Message], printer: AnswerPrinter
    ) -> Chunk | None:
        last: Chunk | None = None
        chunks = self.session.client.stream_chat(messages, **self._make_options(model))
        # Closing the stream is what stops the engine's work, also after an error or Ctrl-C.
        async with aclosing(chunks):
            with Spinner(f"Waiting for {model} ...") as spinner:
                async for chunk in chunks:
                    spinner.stop()
                    last = chunk
                    printer.write_reasoning(chunk.reasoning)
                    if text := chunk.content or chunk.refusal:
                        printer.write(text)
        return last

    async def _print_completion(
        self, model: str, messages: Sequence[Message], printer: AnswerPrinter
    ) -> Completion:
        with Spinner(f"Waiting for {model} ..."):
            completion = await self._complete(model, messages)
        printer.write_reasoning(completion.reasoning)
        if text := completion.content or completion.refusal:
            printer.write(text)
        return completion

    async def _complete(self, model: str, messages: Sequence[Message]) -> Completion:
        return await self.session.client.chat(messages, **self._make_options(model))

    def _make_options(self, model: str) -> ChatOptions:
        return {**self.options, "model": model}
