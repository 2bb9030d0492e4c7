"""`foundry-api chat`: one prompt, or a conversation."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING

import click

from foundry_api.cli import errors
from foundry_api.cli.conversation import Conversation
from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.output import is_terminal, print_json, sanitize
from foundry_api.cli.printer import AnswerPrinter, ChatRunner
from foundry_api.cli.session import Session
from foundry_api.cli.stdin import MARK, read_piped_text, read_text
from foundry_api.core.options import ChatOptions
from foundry_api.types.checks import prompt_to_messages
from foundry_api.types.errors import ContextOverflow, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.types.messages import Chunk, Completion, Message

__all__ = ["command"]

PROMPT = "> "

EPILOG = format_examples(
    'chat --model demo "What is the capital of France?"',
    "chat Tell me a story               words need no quotes",
    "chat < question.txt",
    'cat notes.txt | foundry-api chat "Sum this up:"',
    'chat "What is new in" - "?" < notes.txt   - stands for standard input',
    'chat --json --max-tokens 50 "Name a colour"',
    "chat                               a conversation; /help lists its commands",
)


@click.command("chat", epilog=EPILOG)
@click.argument("words", metavar="[PROMPT]...", nargs=-1)
@click.option("-m", "--model", metavar="NAME", help="Alias or id. [FOUNDRY_MODEL, else phi-4-mini]")
@click.option("-s", "--system", metavar="TEXT", help="Instructions ahead of the conversation.")
@click.option("--temperature", type=float, help="0, always the likeliest token, to 2.")
@click.option("--max-tokens", type=int, help="Upper bound of the answer's length.")
@click.option("--seed", type=int, help="Repeats random choices where the engine allows it.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End the answer here; repeatable.")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is whole.")
@click.option("--timeout", type=float, help="Seconds without a token. [FOUNDRY_TIMEOUT, else 30]")
@click.option("--deadline", type=float, help="Seconds for all of an answer. [FOUNDRY_DEADLINE]")
@click.option("-y", "--yes", is_flag=True, help="Download a missing model without asking.")
@common_options
@pass_common
def command(
    common: GlobalOptions,
    *,
    words: tuple[str, ...],
    model: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
    stop: tuple[str, ...],
    no_stream: bool,
    timeout: float | None,
    deadline: float | None,
    yes: bool,
) -> None:
    """Ask a model: one prompt, or a conversation.

    The prompt is the arguments, and after a blank line what comes on standard input, if it is no
    terminal. An open input on which nothing comes for 10 s is left out; in a loop that itself reads
    standard input, add < /dev/null.

    On a terminal and without a prompt it is a conversation. Ctrl-C stops an answer, and the
    engine's work on it.
    """
    prompt = read_prompt(words)
    if prompt is None and common.as_json:
        raise click.UsageError("--json needs a prompt: a conversation is no JSON document.")
    options = ChatOptions(temperature=temperature, max_tokens=max_tokens, seed=seed, stop=stop)
    with Session(common, model=model, timeout_s=timeout, deadline_s=deadline) as session:
        talker = ChatRunner(session, options, stream=not no_stream, yes=yes, ask=not common.as_json)
        if prompt is None:
            run_repl(talker, system)
        elif common.as_json:
            print_json(
                to_json(talker.complete(session.settings.model, prompt_to_messages(prompt, system)))
            )
        else:
            print_answer(talker, prompt_to_messages(prompt, system))


def read_prompt(words: Sequence[str]) -> str | None:
    """The prompt, or None for a conversation.

    The words, a blank line, and what comes on standard input. A `-` among the words puts it there
    instead.

    Raises:
        InvalidRequest: It is empty, or standard input is not text.
    """
    if not words and is_terminal(sys.stdin):
        return None
    if not words:
        prompt = read_text("prompt").rstrip()
    elif MARK in words:
        prompt = " ".join(read_text("prompt").rstrip() if word == MARK else word for word in words)
    else:
        parts = " ".join(words), read_piped_text("prompt").rstrip()
        prompt = "\n\n".join(part for part in parts if part.strip())
    if not prompt.strip():
        raise InvalidRequest(
            "the prompt is empty", field="prompt", hint="Give it as arguments or on standard input."
        )
    return prompt


def print_answer(runner: ChatRunner, messages: Sequence[Message]) -> None:
    """Say one answer."""
    speaker = AnswerPrinter()
    end = runner.print_answer(runner.session.settings.model, messages, speaker)
    _print_end(runner, end, speaker)


def run_repl(runner: ChatRunner, system: str | None) -> None:
    """Talk until the user leaves. The model is loaded first, so that trouble shows at once."""
    name = runner.session.settings.model
    model = runner.load_model(name)
    _edit_lines()
    _echo(f"Talking to {model.alias}. /help lists the commands; Ctrl-D leaves.")
    Conversation(
        model=name,
        system=system,
        complete=lambda model, messages: _print_turn(runner, model, messages),
        select_model=runner.load_model,
        read=_read_line,
        echo=_echo,
        echo_error=errors.print_error,
    ).run()


def to_json(completion: Completion) -> dict[str, object]:
    """A whole answer as JSON."""
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


def _print_turn(runner: ChatRunner, model: str, messages: Sequence[Message]) -> str | None:
    """Say an answer; Ctrl-C ends it, but not the conversation."""
    speaker = AnswerPrinter()
    with contextlib.suppress(KeyboardInterrupt, click.Abort):
        end = runner.print_answer(model, messages, speaker)
        _print_end(runner, end, speaker)
        return speaker.text
    return speaker.text if speaker.has_begun else None


def _print_end(runner: ChatRunner, end: Chunk | Completion | None, printer: AnswerPrinter) -> None:
    """Say that an answer has no text, or is incomplete and why."""
    if not printer.text.strip():
        thought = " after its reasoning" if printer.has_begun else ""
        _echo(f"The model said nothing{thought}.")
    _print_truncation(runner, end)


def _print_truncation(runner: ChatRunner, end: Chunk | Completion | None) -> None:
    """Say that an answer is incomplete, and why, unless --max-tokens asked for that."""
    if end is None or end.finish_reason != "length" or runner.options.get("max_tokens") is not None:
        return
    tokens = end.usage.completion_tokens if end.usage else 0
    sentence = f"The answer was cut after {tokens} tokens"
    if any(isinstance(attempt.error, ContextOverflow) for attempt in end.attempts):
        _echo(f"{sentence}: with the prompt, they fill the model's context.")
    else:
        _echo(f"{sentence}, the service's own limit; --max-tokens sets another.")


def _read_line() -> str:
    """A line from the terminal; the prompt goes where a person sees it."""
    if is_terminal(sys.stdout):
        return input(PROMPT)
    click.echo(PROMPT, nl=False, err=True)
    return input()


def _edit_lines() -> None:
    """Let the arrow keys edit lines and find earlier ones, where Python was built with that."""
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")


def _echo(text: str) -> None:
    click.echo(sanitize(text), err=True)
