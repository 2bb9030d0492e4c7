"""`foundry-api chat`: a single prompt, or a conversation."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from foundry_api.cli.chat_runner import ChatRunner
from foundry_api.cli.conversation.context import CONTEXT_POLICIES
from foundry_api.cli.conversation.options import ConversationOptions
from foundry_api.cli.errors import print_error
from foundry_api.cli.options import (
    GlobalOptions,
    common_options,
    complete_models,
    complete_templates,
    format_examples,
    pass_common,
)
from foundry_api.cli.output import is_terminal, print_notice
from foundry_api.cli.printer import AnswerPrinter
from foundry_api.cli.session import Session, make_settings
from foundry_api.cli.single_prompt import answer_prompt
from foundry_api.cli.stdin import MARK, read_piped_text, read_text
from foundry_api.cli.text_file import TextFile, add_files, read_text_file
from foundry_api.core.options import CompletionOptions
from foundry_api.engine.models.local_names import DEMO
from foundry_api.observe.format import format_count
from foundry_api.storage.paths import Paths
from foundry_api.types.checks import prompt_to_messages
from foundry_api.types.errors import CatalogUnavailable, InvalidRequest, ModelNotCached

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from foundry_api.cli.chat_log import ConversationRecorder, LoggedConversation
    from foundry_api.cli.conversation.context import ContextPolicy
    from foundry_api.cli.template import Template
    from foundry_api.tools.definition import Tool
    from foundry_api.types.messages import Message
    from foundry_api.types.models import Model

__all__ = ["command"]

_T = TypeVar("_T")

EPILOG = format_examples(
    'chat --model demo "What is the capital of France?"',
    "chat Tell me a story  # quotes are optional",
    "chat < question.txt",
    'cat notes.txt | foundry-api chat "Sum this up:"',
    'chat "What is new in" - "?" < notes.txt  # - is standard input',
    'chat --json --max-tokens 50 "Name a colour"',
    'chat -a report.txt -a notes.md "Compare these."',
    'chat --schema "name, age int" "Invent a person"',
    'chat -t translate --param to=French "Good morning"',
    'chat --tool clock.py:time_in "What time is it in Bern?"',
    'chat -c "And in Tokyo?"  # go on with the last one',
    "chat  # start a conversation",
)


@click.command("chat", epilog=EPILOG)
@click.argument("words", metavar="[PROMPT]...", nargs=-1)
@click.option(
    "-m",
    "--model",
    metavar="NAME",
    shell_complete=complete_models,
    help="Model alias or id. [FOUNDRY_MODEL, else phi-4-mini]",
)
@click.option(
    "-c",
    "--continue",
    "continues",
    is_flag=True,
    help="Continue the last logged conversation: its model, its options and its messages.",
)
@click.option(
    "-t",
    "--template",
    metavar="NAME|FILE",
    shell_complete=complete_templates,
    help="Use a prompt template: a file, or one of `foundry-api templates`.",
)
@click.option(
    "-p",
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Value of a variable of the template; repeatable.",
)
@click.option("-s", "--system", metavar="TEXT", help="System message.")
@click.option(
    "--system-file",
    type=click.Path(),
    metavar="FILE",
    help="Read the system message from a text file.",
)
@click.option(
    "-a",
    "--attach",
    type=click.Path(),
    multiple=True,
    metavar="FILE",
    help="Send a text file after the prompt; repeatable.",
)
@click.option(
    "--schema",
    "response_model",
    metavar="FILE|FIELDS",
    help='Answer with JSON that matches a JSON schema, or fields such as "name, age int".',
)
@click.option(
    "--tool",
    "tools",
    type=click.Path(),
    multiple=True,
    metavar="FILE.py:NAME",
    help="Let the model call a Python function; repeatable. Runs the file.",
)
@click.option("--temperature", type=float, help="Sampling temperature, 0 to 2; 0 is greedy.")
@click.option("--top-p", type=float, help="Sample from this share of the probability, 0 to 1.")
@click.option("--max-tokens", type=int, help="Maximum length of the answer.")
@click.option("--seed", type=int, help="Random seed, if the engine supports it.")
@click.option("--stop", multiple=True, metavar="TEXT", help="Stop at this text; repeatable.")
@click.option("--plain", is_flag=True, help="Print the text as it is: no Markdown, no word wrap.")
@click.option(
    "--think/--no-think",
    default=True,
    help="Show the model's reasoning on a terminal, dimmed. A conversation folds it into one line "
    "when it ends. Default: shown.",
)
@click.option(
    "--context",
    type=click.Choice(CONTEXT_POLICIES),
    default="trim",
    show_default=True,
    help="When a conversation outgrows the model's context: trim leaves out the oldest turns, keep "
    "those after the first, error none.",
)
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
    continues: bool,
    template: str | None,
    params: tuple[str, ...],
    system: str | None,
    system_file: str | None,
    attach: tuple[str, ...],
    response_model: str | None,
    tools: tuple[str, ...],
    temperature: float | None,
    top_p: float | None,
    max_tokens: int | None,
    seed: int | None,
    stop: tuple[str, ...],
    plain: bool,
    think: bool,
    context: ContextPolicy,
    no_stream: bool,
    timeout: float | None,
    deadline: float | None,
    yes: bool,
) -> None:
    """Chat with a model, or send a single prompt.

    The prompt is the arguments, followed by a blank line and standard input unless that is a
    terminal; attached files stand between them. Standard input is ignored if it is open but silent
    for 10 s. Inside a loop that reads standard input, pass < /dev/null.

    Without a prompt, on a terminal, a conversation starts. Ctrl-C stops the answer, and the
    generation in the engine. A terminal shows Markdown; pipes and files get the text as it is.
    """
    if response_model is not None and tools:
        raise click.UsageError("--schema and --tool cannot be combined.")
    if params and template is None:
        raise click.UsageError("--param needs --template.")
    system = _read_system(system, system_file)
    files = [read_text_file(path, "--attach") for path in attach]
    schema, functions = _load_schema(response_model), _load_tools(tools)
    used = _load_template(template)
    prompt = read_prompt(words, files, is_optional=used is not None and not used.needs_input)
    options = CompletionOptions(
        temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed, stop=stop
    )
    if used is not None:
        own_system, prompt = used.fill(prompt, params)
        if prompt is None and used.prompt:
            raise click.UsageError("The template needs a prompt: it has $input.")
        model, system = model or used.model, system or own_system
        options = _merge_options(used.make_options(), options)

    def make_printer(shows_reasoning: bool) -> AnswerPrinter:  # noqa: FBT001 - its only argument
        return AnswerPrinter(plain=plain, think=shows_reasoning, fold=prompt is None)

    past = None
    if continues:
        past = _load_past(common)
        model, system = model or past.model, system or past.system or None
        options = _merge_options(past.options, options)
    with Session(common, model=model, timeout_s=timeout, deadline_s=deadline) as session:
        runner = ChatRunner(
            session,
            options,
            schema=schema,
            tools=functions,
            stream=not no_stream,
            yes=yes,
            ask=not common.as_json,
        )
        recorder = _make_recorder(session, past)
        settings = ConversationOptions(options, system, context, think)
        if prompt is None:
            for option, is_given in (("--json", common.as_json), ("--schema", schema is not None)):
                if is_given:
                    raise click.UsageError(f"{option} needs a prompt; a conversation is text.")
            run_conversation(
                runner,
                settings,
                make_printer,
                files=files,
                recorder=recorder,
                turns=past.messages if past else (),
            )
            return
        messages = prompt_to_messages(prompt, system)
        _offer_demo(
            runner,
            lambda name: answer_prompt(
                runner,
                name,
                messages,
                settings,
                make_printer=make_printer,
                as_json=common.as_json,
                turns=past.turns if past else (),
                recorder=recorder,
            ),
        )


def _merge_options(options: Mapping[str, object], given: CompletionOptions) -> CompletionOptions:
    """Return options, replaced by those that were given."""
    changes = ConversationOptions(given).get_set_options()
    return cast("CompletionOptions", {**options, **changes})


def _load_past(common: GlobalOptions) -> LoggedConversation:
    from foundry_api.cli.chat_log import ChatLog  # noqa: PLC0415 - SQLite, for users of the log

    log = ChatLog(Paths.from_home(make_settings(common).home).chat_log_file)
    if not log.exists:
        raise InvalidRequest(
            "no conversation is logged, so that none can be continued",
            hint="`foundry-api config set logs on` logs them from now on.",
        )
    return log.load()


def _make_recorder(
    session: Session, past: LoggedConversation | None
) -> ConversationRecorder | None:
    if not session.config.is_on("logs"):
        return None
    from foundry_api.cli.chat_log import ChatLog, ConversationRecorder  # noqa: PLC0415 - as above

    log = ChatLog(Paths.from_home(session.settings.home).chat_log_file)
    return ConversationRecorder(log, print_error, past)


def _offer_demo(runner: ChatRunner, action: Callable[[str], _T]) -> _T:
    """Call an action with the model; if nobody chose it and it is missing, offer the demo model."""
    session = runner.session
    model = session.settings.model
    try:
        return action(model)
    except (ModelNotCached, CatalogUnavailable):
        is_interactive = is_terminal(sys.stdin) and is_terminal(sys.stderr)
        if not (session.has_default_model and runner.ask and is_interactive):
            raise
        question = f"{model} is not here; use {DEMO} (2 M parameters, for trying out)?"
        if not click.confirm(question, default=True, err=True):
            raise
    print_notice(f"`foundry-api config set model {DEMO}` makes it the default.")
    return action(DEMO)


def _read_system(text: str | None, path: str | None) -> str | None:
    if path is None:
        return text
    if text is not None:
        raise click.UsageError("Give either --system or --system-file.")
    return read_text_file(path, "--system-file").text


def _load_template(argument: str | None) -> Template | None:
    if argument is None:
        return None
    from foundry_api.cli.template import load_template  # noqa: PLC0415 - few calls have one

    return load_template(argument)


def _load_schema(argument: str | None) -> dict[str, Any] | None:
    if argument is None:
        return None
    from foundry_api.cli.schema import parse_schema  # noqa: PLC0415 - few calls have a schema

    return parse_schema(argument)


def _load_tools(arguments: Sequence[str]) -> tuple[Tool, ...]:
    if not arguments:
        return ()
    from foundry_api.cli.tool_file import load_tools  # noqa: PLC0415 - few calls have tools

    return load_tools(arguments)


def read_prompt(
    words: Sequence[str], files: Sequence[TextFile] = (), *, is_optional: bool = False
) -> str | None:
    """Return the prompt from arguments, files and standard input; None for a conversation.

    With `is_optional` it may be empty, because a template has all there is to send.
    """
    if not words and is_terminal(sys.stdin):
        return add_files("", files) if is_optional else None
    if not words:
        text = read_piped_text("prompt") if is_optional else read_text("prompt")
        prompt = add_files(text.rstrip(), files)
    elif MARK in words:
        text = " ".join(read_text("prompt").rstrip() if word == MARK else word for word in words)
        prompt = add_files(text, files)
    else:
        parts = add_files(" ".join(words), files), read_piped_text("prompt").rstrip()
        prompt = "\n\n".join(part for part in parts if part.strip())
    if not (prompt.strip() or is_optional):
        raise InvalidRequest(
            "the prompt is empty", field="prompt", hint="Give it as arguments or on standard input."
        )
    return prompt


def run_conversation(
    runner: ChatRunner,
    options: ConversationOptions,
    make_printer: Callable[[bool], AnswerPrinter],
    *,
    files: Sequence[TextFile],
    recorder: ConversationRecorder | None,
    turns: Sequence[Message],
) -> None:
    """Run a conversation until the user quits."""
    # The prompt is 100 ms to import, which a single prompt does without.
    from foundry_api.cli.conversation.conversation import Conversation  # noqa: PLC0415
    from foundry_api.cli.conversation.terminal import TerminalIO  # noqa: PLC0415

    def load(name: str) -> tuple[str, Model]:
        return name, runner.load_model(name)

    name, model = _offer_demo(runner, load)  # before the first prompt, so that a failure shows
    history_path = None
    if runner.session.config.is_on("history"):
        history_path = Paths.from_home(runner.session.settings.home).history_file
    terminal = TerminalIO(runner, make_printer, history_path)
    terminal.echo(f"Chatting with {model.alias}. /help lists commands; Ctrl-D quits.")
    if turns:
        count = sum(message.role == "user" for message in turns)
        terminal.echo(f"This continues a conversation of {format_count(count, 'turn')}.")
    Conversation(
        terminal,
        model=name,
        loaded=model,
        options=options,
        turns=turns,
        files=files,
        recorder=recorder,
    ).run()
