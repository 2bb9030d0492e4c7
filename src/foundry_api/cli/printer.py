"""Getting answers and saying them while they come."""

from __future__ import annotations

import sys
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

import click

from foundry_api.cli.downloads import run_with_download
from foundry_api.cli.output import is_terminal, sanitize
from foundry_api.cli.spinner import Waiting
from foundry_api.core.options import ChatOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.cli.session import Session
    from foundry_api.types.messages import Chunk, Completion, Message, Model

__all__ = ["Speaker", "Talker"]


class Speaker:
    """Says one answer, and knows what was said of it when it was interrupted.

    Args:
        stream: Where to say it; None is standard output.

    Attributes:
        has_begun: Whether text or reasoning has arrived.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._said: list[str] = []
        self._thinking = False
        self.has_begun = False

    @property
    def said(self) -> str:
        """The text so far."""
        return "".join(self._said)

    def think(self, text: str) -> None:
        """Say a piece of the model's reasoning: dimly, and only to a person who looks."""
        self.has_begun = self.has_begun or bool(text)
        if text and is_terminal(sys.stderr) and is_terminal(self._stream):
            if not self._thinking:
                self._thinking = True
                click.secho("", dim=True, reset=False, nl=False, err=True)
            click.echo(sanitize(text), nl=False, err=True)

    def say(self, text: str) -> None:
        """Say a piece of the answer now; a terminal gets it without what it would obey."""
        self._end_thinking()
        self._said.append(text)
        self.has_begun = self.has_begun or bool(text)
        self._stream.write(sanitize(text) if is_terminal(self._stream) else text)
        self._stream.flush()

    def end(self) -> None:
        """End the last line, unless the answer did so or there was none."""
        self._end_thinking()
        if self._said and not self._said[-1].endswith("\n"):
            self._stream.write("\n")
            self._stream.flush()

    def _end_thinking(self) -> None:
        if self._thinking:
            self._thinking = False
            click.secho("\n", reset=True, err=True)


@dataclass(frozen=True, slots=True)
class Talker:
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

    def say(
        self, model: str, messages: Sequence[Message], speaker: Speaker
    ) -> Chunk | Completion | None:
        """Say an answer, and end its last line, however it ends.

        Returns:
            The last chunk, or the completion: both tell how the answer ended.
        """
        saying = self._say_pieces if self.stream else self._say_whole
        try:
            return run_with_download(
                self.session,
                lambda: saying(model, messages, speaker),
                yes=self.yes,
                ask=self.ask,
            )
        finally:
            speaker.end()

    def complete(self, model: str, messages: Sequence[Message]) -> Completion:
        """The whole answer, without saying it."""
        return run_with_download(
            self.session,
            lambda: self._complete(model, messages),
            yes=self.yes,
            ask=self.ask,
            waiting=f"Waiting for {model} ...",
        )

    def load(self, model: str) -> Model:
        """Have a model ready to answer."""
        return run_with_download(
            self.session,
            lambda: self.session.client.models.load(model),
            yes=self.yes,
            ask=self.ask,
            waiting=f"Loading {model} ...",
        )

    async def _say_pieces(
        self, model: str, messages: Sequence[Message], speaker: Speaker
    ) -> Chunk | None:
        last: Chunk | None = None
        chunks = self.session.client.stream_chat(messages, **self._options(model))
        # Closing the stream, however this ends, is what stops the engine's work.
        async with aclosing(chunks):
            with Waiting(f"Waiting for {model} ...") as waiting:
                async for chunk in chunks:
                    waiting.over()
                    last = chunk
                    speaker.think(chunk.reasoning)
                    if text := chunk.content or chunk.refusal:
                        speaker.say(text)
        return last

    async def _say_whole(
        self, model: str, messages: Sequence[Message], speaker: Speaker
    ) -> Completion:
        with Waiting(f"Waiting for {model} ..."):
            completion = await self._complete(model, messages)
        speaker.think(completion.reasoning)
        if text := completion.content or completion.refusal:
            speaker.say(text)
        return completion

    async def _complete(self, model: str, messages: Sequence[Message]) -> Completion:
        return await self.session.client.chat(messages, **self._options(model))

    def _options(self, model: str) -> ChatOptions:
        return {**self.options, "model": model}
