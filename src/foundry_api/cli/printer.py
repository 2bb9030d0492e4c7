"""Getting answers and saying them while they come."""

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
    """Says one answer, and knows what was said of it when it was interrupted.

    Args:
        stream: Where to say it; None is standard output.

    Attributes:
        has_begun: Whether text or reasoning has arrived.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._parts: list[str] = []
        self._in_reasoning = False
        self.has_begun = False

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._parts)

    def write_reasoning(self, text: str) -> None:
        """Say a piece of the model's reasoning: dimly, and only to a person who looks."""
        self.has_begun = self.has_begun or bool(text)
        if text and is_terminal(sys.stderr) and is_terminal(self._stream):
            if not self._in_reasoning:
                self._in_reasoning = True
                click.secho("", dim=True, reset=False, nl=False, err=True)
            click.echo(sanitize(text), nl=False, err=True)

    def write(self, text: str) -> None:
        """Say a piece of the answer now; a terminal gets it without what it would obey."""
        self._end_reasoning()
        self._parts.append(text)
        self.has_begun = self.has_begun or bool(text)
        self._stream.write(sanitize(text) if is_terminal(self._stream) else text)
        self._stream.flush()

    def finish(self) -> None:
        """End the last line, unless the answer did so or there was none."""
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
    """Has answers said.

    Attributes:
        session: The client and its loop.
        options: What calls take besides model and messages.
        stream: Whether to say answers piece by piece.
        yes: Whether to download a missing model without a question.
        ask: Whether to ask for that on a terminal.
    """

    session: Session
    options: ChatOptions = field(default_factory=ChatOptions)
    stream: bool = True
    yes: bool = False
    ask: bool = True

    def print_answer(
        self, model: str, messages: Sequence[Message], printer: AnswerPrinter
    ) -> Chunk | Completion | None:
        """Say an answer, and end its last line, however it ends.

        Returns:
            The last chunk, or the completion: both tell how the answer ended.
        """
        saying = self._print_stream if self.stream else self._print_completion
        try:
            return retry_after_download(
                self.session,
                lambda: saying(model, messages, printer),
                yes=self.yes,
                ask=self.ask,
            )
        finally:
            printer.finish()

    def complete(self, model: str, messages: Sequence[Message]) -> Completion:
        """The whole answer, without saying it."""
        return retry_after_download(
            self.session,
            lambda: self._complete(model, messages),
            yes=self.yes,
            ask=self.ask,
            waiting=f"Waiting for {model} ...",
        )

    def load_model(self, model: str) -> Model:
        """Have a model ready to answer."""
        return retry_after_download(
            self.session,
            lambda: self.session.client.models.load(model),
            yes=self.yes,
            ask=self.ask,
            waiting=f"Loading {model} ...",
        )

    async def _print_stream(
        self, model: str, messages: Sequence[Message], printer: AnswerPrinter
    ) -> Chunk | None:
        last: Chunk | None = None
        chunks = self.session.client.stream_chat(messages, **self._make_options(model))
        # Closing the stream, however this ends, is what stops the engine's work.
        async with aclosing(chunks):
            with Spinner(f"Waiting for {model} ...") as waiting:
                async for chunk in chunks:
                    waiting.stop()
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
