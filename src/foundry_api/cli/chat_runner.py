"""Calls a model for `foundry-api chat`, and downloads the model first if it is missing."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from foundry_api.cli.downloads import retry_after_download
from foundry_api.cli.spinner import Spinner
from foundry_api.core.options import ChatOptions
from foundry_api.observe.format import format_count
from foundry_api.types.errors import ContextOverflow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.cli.printer import AnswerPrinter
    from foundry_api.cli.session import Session
    from foundry_api.types.messages import Chunk, Completion, Message
    from foundry_api.types.models import Model

__all__ = ["ChatRunner", "is_context_full", "print_end"]


@dataclass(frozen=True, slots=True)
class ChatRunner:
    """Calls models with the options of the command line, and prints or returns their answers."""

    session: Session
    options: ChatOptions = field(default_factory=ChatOptions)
    stream: bool = True
    yes: bool = False  # download a missing model without asking
    ask: bool = True  # ask on a terminal before a download

    def print_answer(
        self,
        model: str,
        messages: Sequence[Message],
        printer: AnswerPrinter,
        options: ChatOptions | None = None,
    ) -> Chunk | Completion | None:
        """Print an answer; return its last chunk or completion, which has the finish reason.

        `options` are used instead of those of the command line.
        """
        call_options: ChatOptions = {**(options or self.options), "model": model}
        print_answer = self._print_stream if self.stream else self._print_completion
        try:
            return retry_after_download(
                self.session,
                lambda: print_answer(call_options, messages, printer),
                yes=self.yes,
                ask=self.ask,
            )
        finally:
            printer.finish()

    def complete(self, model: str, messages: Sequence[Message]) -> Completion:
        options: ChatOptions = {**self.options, "model": model}
        return retry_after_download(
            self.session,
            lambda: self.session.client.chat(messages, **options),
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
        self, options: ChatOptions, messages: Sequence[Message], printer: AnswerPrinter
    ) -> Chunk | None:
        last: Chunk | None = None
        chunks = self.session.client.stream_chat(messages, **options)
        # Closing the stream stops the generation in the engine, also after an error or Ctrl-C.
        async with aclosing(chunks):
            with Spinner(f"Waiting for {options.get('model')} ...") as spinner:
                async for chunk in chunks:
                    last = chunk
                    text = chunk.content or chunk.refusal
                    if text or printer.shows_reasoning:
                        spinner.stop()
                    printer.write_reasoning(chunk.reasoning)
                    if text:
                        printer.write(text)
        return last

    async def _print_completion(
        self, options: ChatOptions, messages: Sequence[Message], printer: AnswerPrinter
    ) -> Completion:
        with Spinner(f"Waiting for {options.get('model')} ..."):
            completion = await self.session.client.chat(messages, **options)
        printer.write_reasoning(completion.reasoning)
        if text := completion.content or completion.refusal:
            printer.write(text)
        return completion


def print_end(
    options: ChatOptions,
    last: Chunk | Completion | None,
    printer: AnswerPrinter,
    *,
    limit_option: str = "--max-tokens",
) -> None:
    """Report an answer that is empty, or that was cut although its length was not limited."""
    if not printer.text.strip():
        reasoning = " after its reasoning" if printer.has_begun else ""
        click.echo(f"The model returned no text{reasoning}.", err=True)
    if last is None or last.finish_reason != "length" or options.get("max_tokens") is not None:
        return
    tokens = last.usage.completion_tokens if last.usage else 0
    message = f"The answer was cut off after {format_count(tokens, 'token')}"
    if is_context_full(last):
        click.echo(f"{message}: together with the prompt, they fill the model's context.", err=True)
    else:
        click.echo(
            f"{message}, the limit of the service; set another with {limit_option}.", err=True
        )


def is_context_full(last: Chunk | Completion) -> bool:
    """Whether an answer was cut because it filled the context together with the prompt."""
    return last.finish_reason == "length" and any(
        isinstance(attempt.error, ContextOverflow) for attempt in last.attempts
    )
