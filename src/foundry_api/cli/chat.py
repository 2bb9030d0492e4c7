"""`foundry-api chat`: a single prompt, or a conversation."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING

import click

from foundry_api.cli import errors
from foundry_api.cli.chat_runner import ChatRunner
from foundry_api.cli.conversation import Conversation
from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.output import is_terminal, print_json, sanitize
from foundry_api.cli.printer import AnswerPrinter
from foundry_api.cli.session import Session
from foundry_api.cli.stdin import MARK, read_piped_text, read_text
from foundry_api.core.options import ChatOptions
from foundry_api.observe.format import format_count
from foundry_api.types.checks import prompt_to_messages
from foundry_api.types.errors import ContextOverflow, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.types.messages import Chunk, Completion, Message

__all__ = ["command"]

PROMPT = "> "

EPILOG = format_examples(
    'chat --model demo "What is the capital of France?"',
    "chat Tell me a story               quotes are optional",
    "chat < question.txt",
    'cat notes.txt | foundry-api chat "Sum this up:"',
    'chat "What is new in" - "?" < notes.txt   - is standard input',
    'chat --json --max-tokens 50 "Name a colour"',
    "chat                               start a conversation; /help lists commands",
)


@click.command("chat", epilog=EPILOG)
@click.argument("words", metavar="[PROMPT]...", nargs=-1)
@click.option(
    "-m", "--model", metavar="NAME", help="Model alias or id. [FOUNDRY_MODEL, else phi-4-mini]"
)
@click.option("-s", "--system", metavar="TEXT", help="System message.")
@click.option("--temperature", type=float, help="Sampling temperature, 0 to 2; 0 is greedy.")
@click.option("--max-tokens", type=int, help="Maximum length of the answer.")
@click.option("--seed", type=int, help="Random seed, if the engine supports it.")
@click.option("--stop", multiple=True, metavar="TEXT", help="Stop at this text; repeatable.")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is complete.")
@click.option(
    "--timeout", type=float, help="Seconds to wait for the next token. [FOUNDRY_TIMEOUT, else 30]"
)
@click.option("--deadline", type=float, help="Seconds for the entire answer. [FOUNDRY_DEADLINE]")
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
    """Chat with a model, or send a single prompt.

    The prompt is the arguments, followed by a blank line and standard input unless that is a
    terminal. Standard input is ignored if it is open but silent for 10 s. Inside a loop that reads
    standard input, pass < /dev/null.

    Without a prompt, on a terminal, a conversation starts. Ctrl-C stops the answer, and the
    generation in the engine.
    """
    prompt = read_prompt(words)
    if prompt is None and common.as_json:
        raise click.UsageError("--json needs a prompt: a conversation cannot be printed as JSON.")
    options = ChatOptions(temperature=temperature, max_tokens=max_tokens, seed=seed, stop=stop)
    with Session(common, model=model, timeout_s=timeout, deadline_s=deadline) as session:
        runner = ChatRunner(session, options, stream=not no_stream, yes=yes, ask=not common.as_json)
        if prompt is None:
            run_repl(runner, system)
            return
        messages = prompt_to_messages(prompt, system)
        if common.as_json:
            print_json(to_json(runner.complete(session.settings.model, messages)))
        else:
            printer = AnswerPrinter()
            last = runner.print_answer(session.settings.model, messages, printer)
            _print_end(runner, last, printer)


def read_prompt(words: Sequence[str]) -> str | None:
    """Return the prompt from arguments and standard input; None for a conversation."""
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


def run_repl(runner: ChatRunner, system: str | None) -> None:
    """Run a conversation until the user quits."""
    name = runner.session.settings.model
    model = runner.load_model(name)  # before the first prompt, so that a failure shows at once
    with contextlib.suppress(ImportError):  # not every Python has readline, which edits lines
        importlib.import_module("readline")
    _echo(f"Chatting with {model.alias}. /help lists commands; Ctrl-D quits.")

    def print_turn(model: str, messages: Sequence[Message]) -> str | None:
        printer = AnswerPrinter()
        # Ctrl-C stops the answer, but not the conversation.
        with contextlib.suppress(KeyboardInterrupt, click.Abort):
            last = runner.print_answer(model, messages, printer)
            _print_end(runner, last, printer)
            return printer.text
        return printer.text if printer.has_begun else None

    Conversation(
        model=name,
        system=system,
        complete=print_turn,
        select_model=runner.load_model,
        read=_read_line,
        echo=_echo,
        echo_error=errors.print_error,
    ).run()


def to_json(completion: Completion) -> dict[str, object]:
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


def _print_end(runner: ChatRunner, last: Chunk | Completion | None, printer: AnswerPrinter) -> None:
    """Report an answer that is empty, or that was cut although --max-tokens was not given."""
    if not printer.text.strip():
        reasoning = " after its reasoning" if printer.has_begun else ""
        _echo(f"The model returned no text{reasoning}.")
    if (
        last is None
        or last.finish_reason != "length"
        or runner.options.get("max_tokens") is not None
    ):
        return
    tokens = last.usage.completion_tokens if last.usage else 0
    message = f"The answer was cut off after {format_count(tokens, 'token')}"
    if any(isinstance(attempt.error, ContextOverflow) for attempt in last.attempts):
        _echo(f"{message}: together with the prompt, they fill the model's context.")
    else:
        _echo(f"{message}, the limit of the service; set another with --max-tokens.")


def _read_line() -> str:
    if is_terminal(sys.stdout):
        return input(PROMPT)
    # `foundry-api chat > file`: the prompt must not be in the file.
    click.echo(PROMPT, nl=False, err=True)
    return input()


def _echo(text: str) -> None:
    click.echo(sanitize(text), err=True)
