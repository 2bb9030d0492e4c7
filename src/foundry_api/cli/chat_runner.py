"""Calls a model for `foundry-api chat`, and downloads the model first if it is missing."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from foundry_api.cli.downloads import retry_after_download
from foundry_api.cli.output import print_notice
from foundry_api.cli.spinner import Spinner
from foundry_api.core.options import CompletionOptions
from foundry_api.observe.format import format_count
from foundry_api.tools.results import ToolRun
from foundry_api.types.errors import ContextOverflow
from foundry_api.types.messages import Chunk, Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.cli.printer import AnswerPrinter
    from foundry_api.cli.session import Session
    from foundry_api.tools.definition import Tool
    from foundry_api.types.messages import Completion
    from foundry_api.types.models import Model

__all__ = ["Answer", "ChatRunner", "Turn", "is_context_full", "print_end", "to_json"]


Turn = tuple[Message, ...]
"""A question, and what followed it: calls of tools with their results, and the answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was printed.

    Attributes:
        text: The text, also of an answer that was stopped.
        messages: Calls of tools and their results, which precede the answer.
        last: The last chunk, or the completion, with counts and durations; None if it was stopped.
        reasoning: What the model wrote before the answer.
    """

    text: str
    messages: tuple[Message, ...] = ()
    last: Chunk | Completion | None = None
    reasoning: str = ""

    def make_turn(self, question: Message) -> Turn:
        """Return the messages from the question to the answer, if there is one."""
        has_text = bool(self.text) and not self.text.isspace()  # services refuse empty messages
        answer = (Message("assistant", self.text),) if has_text else ()
        return (question, *self.messages, *answer)


@dataclass(frozen=True, slots=True)
class ChatRunner:
    """Calls models with the options of the command line, and prints or returns their answers."""

    session: Session
    options: CompletionOptions = field(default_factory=CompletionOptions)
    schema: dict[str, Any] | None = None  # of the answer
    tools: tuple[Tool, ...] = ()
    stream: bool = True
    yes: bool = False  # download a missing model without asking
    ask: bool = True  # ask on a terminal before a download

    def print_answer(
        self,
        model: str,
        messages: Sequence[Message],
        printer: AnswerPrinter,
        options: CompletionOptions | None = None,
    ) -> Answer:
        """Print an answer and return it. `options` replace those of the command line."""
        call_options: CompletionOptions = {**(options or self.options), "model": model}
        print_answer = self._print_stream if self.stream else self._print_completion
        if self.tools:
            print_answer = self._print_run
        try:
            answer = retry_after_download(
                self.session,
                lambda: print_answer(call_options, messages, printer),
                yes=self.yes,
                ask=self.ask,
            )
            return replace(answer, reasoning=printer.reasoning)
        finally:
            printer.finish()

    def complete(self, model: str, messages: Sequence[Message]) -> Completion[Any]:
        """Return an answer; with a schema, one that matches it."""
        options: CompletionOptions = {**self.options, "model": model}
        return retry_after_download(
            self.session,
            lambda: self.session.client.chat(messages, response_model=self.schema, **options),
            yes=self.yes,
            ask=self.ask,
            description=f"Waiting for {model} ...",
        )

    def get_json(self, model: str, messages: Sequence[Message]) -> tuple[dict[str, object], Answer]:
        """Return an answer as the document that `--json` prints, and as an answer."""
        if not self.tools:
            completion = self.complete(model, messages)
            parsed = {} if self.schema is None else {"parsed": completion.parsed}
            answer = Answer(completion.content, last=completion)
            return {**to_json(completion), **parsed}, answer
        options: CompletionOptions = {**self.options, "model": model}
        run = retry_after_download(
            self.session,
            lambda: self.session.client.run_tools(messages, self.tools, **options),
            yes=self.yes,
            ask=self.ask,
            description=f"Waiting for {model} ...",
        )
        calls = [
            {"name": call.name, "arguments": call.arguments, "result": call.content}
            for call in run.calls
        ]
        document = {**to_json(run.completion), "usage": run.usage, "tool_calls": calls}
        return document, _make_run_answer(run, messages)

    def load_model(self, model: str) -> Model:
        return retry_after_download(
            self.session,
            lambda: self.session.client.models.load(model),
            yes=self.yes,
            ask=self.ask,
            description=f"Loading {model} ...",
        )

    async def _print_stream(
        self, options: CompletionOptions, messages: Sequence[Message], printer: AnswerPrinter
    ) -> Answer:
        last: Chunk | None = None
        chunks = self.session.client.stream_chat(messages, **options)
        # Closing the stream stops the generation in the engine, also after an error or Ctrl-C.
        async with aclosing(chunks):
            with Spinner(f"Waiting for {options.get('model')} ...") as spinner:
                async for chunk in chunks:
                    last = chunk
                    _print_chunk(chunk, printer, spinner)
        return Answer(printer.text, last=last)

    async def _print_completion(
        self, options: CompletionOptions, messages: Sequence[Message], printer: AnswerPrinter
    ) -> Answer:
        with Spinner(f"Waiting for {options.get('model')} ..."):
            completion = await self.session.client.chat(messages, **options)
        printer.write_reasoning(completion.reasoning)
        if text := completion.content or completion.refusal:
            printer.write(text)
        return Answer(printer.text, last=completion)

    async def _print_run(
        self, options: CompletionOptions, messages: Sequence[Message], printer: AnswerPrinter
    ) -> Answer:
        parts = self.session.client.stream_run_tools(messages, self.tools, **options)
        answer = Answer("")
        async with aclosing(parts):
            with Spinner(f"Waiting for {options.get('model')} ...") as spinner:
                async for part in parts:
                    if isinstance(part, Chunk):
                        _print_chunk(part, printer, spinner)
                    elif isinstance(part, ToolRun):
                        answer = _make_run_answer(part, messages)
                    else:
                        spinner.stop()
                        printer.write_tool_call(
                            part.name, part.call.function.arguments, part.content
                        )
        return answer


def _make_run_answer(run: ToolRun, messages: Sequence[Message]) -> Answer:
    calls = run.messages[len(messages) :]
    if calls and calls[-1].role == "assistant" and not calls[-1].tool_calls:
        calls = calls[:-1]
    return Answer(run.content, calls, run.completion)


def _print_chunk(chunk: Chunk, printer: AnswerPrinter, spinner: Spinner) -> None:
    text = chunk.content or chunk.refusal
    if text or printer.shows_reasoning:
        spinner.stop()
    printer.write_reasoning(chunk.reasoning)
    if text:
        printer.write(text)


def to_json(completion: Completion[Any]) -> dict[str, object]:
    return {
        "content": completion.content,
        "reasoning": completion.reasoning,
        "refusal": completion.refusal,
        "model": completion.model,
        "finish_reason": completion.finish_reason,
        "usage": completion.usage,
        "timings": completion.timings,
        "attempts": len(completion.attempts),
        "cached": completion.cached,
        "service": completion.service,
        "service_generation": completion.service_generation,
    }


def print_end(
    options: CompletionOptions,
    last: Chunk | Completion | None,
    printer: AnswerPrinter,
    *,
    limit_option: str = "--max-tokens",
) -> None:
    """Report an answer that is empty, or that was cut although its length was not limited."""
    if not printer.text.strip():
        reasoning = " after its reasoning" if printer.has_begun else ""
        print_notice(f"The model returned no text{reasoning}.")
    if last is None or last.finish_reason != "length" or options.get("max_tokens") is not None:
        return
    tokens = last.usage.completion_tokens if last.usage else 0
    message = f"The answer was cut off after {format_count(tokens, 'token')}"
    if is_context_full(last):
        print_notice(f"{message}: together with the prompt, they fill the model's context.")
    else:
        print_notice(f"{message}, the limit of the service; set another with {limit_option}.")


def is_context_full(last: Chunk | Completion) -> bool:
    """Whether an answer was cut because it filled the context together with the prompt."""
    return last.finish_reason == "length" and any(
        isinstance(attempt.error, ContextOverflow) for attempt in last.attempts
    )
