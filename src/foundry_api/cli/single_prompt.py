"""Answers a single prompt, which may continue a conversation that was logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from foundry_api.cli.chat_runner import Answer, print_end
from foundry_api.cli.conversation.context import ContextWindow
from foundry_api.cli.conversation.transcript import Transcript
from foundry_api.cli.output import print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.cli.chat_log import ConversationRecorder
    from foundry_api.cli.chat_runner import ChatRunner, Turn
    from foundry_api.cli.conversation.options import ConversationOptions
    from foundry_api.cli.printer import AnswerPrinter
    from foundry_api.types.messages import Message

__all__ = ["answer_prompt"]


def answer_prompt(
    runner: ChatRunner,
    model: str,
    messages: Sequence[Message],
    options: ConversationOptions,
    *,
    make_printer: Callable[[bool], AnswerPrinter],
    as_json: bool,
    turns: Sequence[Turn] = (),
    recorder: ConversationRecorder | None = None,
) -> None:
    """Print the answer to a prompt.

    Args:
        runner: Calls the model.
        model: The model.
        messages: The prompt, after the system message if there is one.
        options: The options of the call.
        make_printer: Returns the printer; the argument says whether it shows the reasoning.
        as_json: Whether to print a JSON document.
        turns: The turns of a conversation that goes on.
        recorder: Logs the answer.
    """
    *others, question = messages
    transcript = Transcript(list(turns))
    answer = ContextWindow(options.context).send(
        transcript,
        [*others, question],
        options.chat.get("max_tokens"),
        lambda sent: _show_answer(
            runner, model, sent, make_printer(options.think), as_json=as_json
        ),
        lambda text: click.echo(text, err=True),
    )
    if recorder is not None:
        recorder.record(
            model=model,
            system=options.system,
            options=options.get_set_options(),
            turns=[*transcript.turns, answer.make_turn(question)],
            last=answer.last,
        )


def _show_answer(
    runner: ChatRunner,
    model: str,
    messages: Sequence[Message],
    printer: AnswerPrinter,
    *,
    as_json: bool,
) -> Answer:
    if as_json:
        document, answer = runner.get_json(model, messages)
        print_json(document)
        return answer
    if runner.schema is not None:
        completion = runner.complete(model, messages)
        print_json(completion.parsed)
        return Answer(completion.content, last=completion)
    answer = runner.print_answer(model, messages, printer)
    print_end(runner.options, answer.last, printer)
    return answer
