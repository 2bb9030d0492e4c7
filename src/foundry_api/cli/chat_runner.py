"""Calls a model for `foundry-api chat`, and downloads the model first if it is missing."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foundry_api.cli.downloads import retry_after_download
from foundry_api.cli.spinner import Spinner
from foundry_api.core.options import ChatOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.cli.printer import AnswerPrinter
    from foundry_api.cli.session import Session
    from foundry_api.types.messages import Chunk, Completion, Message
    from foundry_api.types.models import Model

__all__ = ["ChatRunner"]


@dataclass(frozen=True, slots=True)
class ChatRunner:
    """Calls models with the options of the command line, and prints or returns their answers."""

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
        # Closing the stream stops the generation in the engine, also after an error or Ctrl-C.
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
