"""The loop of a conversation: reads messages and commands until the user quits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

import click

from foundry_api.cli.chat_runner import Answer, is_context_full
from foundry_api.cli.conversation.commands import (
    COMMANDS,
    HELP,
    CommandLine,
    parse_command,
    suggest_command,
)
from foundry_api.cli.conversation.context import ContextWindow
from foundry_api.cli.conversation.options import CALL_OPTIONS, OPTION_NAMES, ConversationOptions
from foundry_api.cli.conversation.statistics import format_statistics
from foundry_api.cli.conversation.transcript import (
    SavedConversation,
    Transcript,
    load_conversation,
    save_conversation,
)
from foundry_api.cli.text_file import TextFile, add_files, read_text_file
from foundry_api.observe.format import format_count
from foundry_api.types.errors import FoundryError, InvalidRequest
from foundry_api.types.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.cli.chat_log import ConversationRecorder
    from foundry_api.core.options import CompletionOptions
    from foundry_api.types.messages import Chunk, Completion
    from foundry_api.types.models import Model

__all__ = ["Conversation", "ConversationIO"]

QUOTES = '"""'


class ConversationIO(Protocol):
    """The terminal and the client, as a conversation uses them."""

    def read(self, default: str) -> str:
        """Return the next message; raise EOFError or KeyboardInterrupt if the user quits."""
        ...

    def edit(self) -> str:
        """Return text from the user's editor."""
        ...

    def answer(
        self, model: str, messages: Sequence[Message], options: CompletionOptions, *, think: bool
    ) -> Answer | None:
        """Print the answer of a model; None if nothing arrived. Raises FoundryError."""
        ...

    def load_model(self, name: str) -> Model:
        """Load a model. Raises FoundryError."""
        ...

    def echo(self, text: str) -> None:
        """Print a message that is not part of an answer."""
        ...

    def show_reasoning(self, text: str) -> None:
        """Print a model's reasoning."""
        ...

    def echo_error(self, error: Exception) -> None:
        """Print an error."""
        ...


class Conversation:
    """Reads messages, answers them, and executes commands, until the user quits.

    Args:
        io: The terminal and the client.
        model: The name of the first model, as the user gave it.
        loaded: The model, if it is loaded.
        options: The options at the start.
        turns: Messages of a conversation that goes on.
        files: Text files that go with the first message.
        recorder: Logs the conversation.
    """

    def __init__(
        self,
        io: ConversationIO,
        *,
        model: str,
        loaded: Model | None = None,
        options: ConversationOptions | None = None,
        turns: Sequence[Message] = (),
        files: Sequence[TextFile] = (),
        recorder: ConversationRecorder | None = None,
    ) -> None:
        self.model = model
        self.options = options or ConversationOptions()
        self.transcript = Transcript()
        self.transcript.replace(turns)
        self._io = io
        self._window = ContextWindow(
            self.options.context, loaded.context_length if loaded else None
        )
        self._recorder = recorder
        self._files = list(files)  # they go with the next message
        self._unanswered: Message | None = None  # the last question, if its call failed
        self._last: Chunk | Completion | None = None
        self._reasoning = ""  # of the last answer
        self._next_text = ""  # what the next prompt starts with
        self._save_path = ""
        self._commands: dict[str, Callable[[str], object]] = {
            "/help": lambda _: self._io.echo(HELP),
            "/edit": lambda _: self._edit(),
            "/file": self._add_file,
            "/retry": lambda _: self._retry(),
            "/undo": lambda _: self._undo(),
            "/reset": lambda _: self._reset(),
            "/model": self._set_model,
            "/system": self._set_system,
            "/set": self._set_option,
            "/think": lambda _: self._show_reasoning(),
            "/stats": lambda _: self._show_statistics(),
            "/save": self._save,
            "/load": self._load,
        }

    def run(self) -> None:
        """Run until the user quits with /quit, Ctrl-D, or Ctrl-C twice."""
        was_interrupted = False
        while True:
            text, self._next_text = self._next_text, ""
            try:
                line = self._io.read(text)
            except EOFError:
                return
            except KeyboardInterrupt:
                if was_interrupted:
                    return
                was_interrupted = True
                self._io.echo("Press Ctrl-C again to quit.")
                continue
            was_interrupted = False
            message = _strip_quotes(line)
            if message is None and (command := parse_command(line)) is not None:
                if command.name == "/quit" and not command.argument:
                    return
                self._attempt(partial(self._execute, command))
            elif text := message if message is not None else line.strip():
                self._attempt(partial(self._send, text))

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (FoundryError, click.ClickException) as error:
            self._io.echo_error(error)
        except (KeyboardInterrupt, click.Abort):  # such as while a model is loaded
            self._io.echo("Stopped.")
        if self._recorder is not None:
            self._recorder.record(
                model=self.model,
                system=self.options.system,
                options=self.options.get_set_options(),
                turns=self.transcript.turns,
                last=self._last,
            )

    def _execute(self, line: CommandLine) -> None:
        command = COMMANDS.get(line.name)
        if command is None:
            close = suggest_command(line.name)
            suggestion = f" (did you mean {close}?)" if close else ""
            self._io.echo(f"There is no command {line.word}{suggestion}; /help lists commands.")
        elif line.argument and not command.argument:
            self._io.echo(f"{line.word} takes no argument: enter {line.word.lower()} alone.")
        elif not line.argument and command.argument and not command.argument.startswith("["):
            self._io.echo(f"{line.word} needs an argument: {command.usage}")
        else:
            self._commands[line.name](line.argument)

    def _send(self, text: str) -> None:
        files, self._files = self._files, []
        self._ask(Message("user", add_files(text, files)), self.options.chat)

    def _ask(self, question: Message, options: CompletionOptions) -> None:
        system = self.options.system
        others = [*([Message("system", system)] if system else []), question]
        self._window.policy = self.options.context
        self._window.send(
            self.transcript,
            others,
            options.get("max_tokens"),
            lambda messages: self._finish_turn(question, messages, options),
            self._io.echo,
        )

    def _finish_turn(
        self, question: Message, messages: Sequence[Message], options: CompletionOptions
    ) -> None:
        # An incomplete answer stays in the history, so that the user can continue from it. So does
        # a question whose answer is empty, such as after reasoning without an answer.
        self._unanswered, self._last, self._reasoning = question, None, ""
        answer: Answer | None = None
        try:
            answer = self._io.answer(self.model, messages, options, think=self.options.think)
        except FoundryError as error:
            answer = Answer(error.partial) if error.partial else None
            raise
        finally:
            if answer is not None:
                self._unanswered, self._last = None, answer.last
                self._reasoning = answer.reasoning
                self.transcript.turns.append(answer.make_turn(question))
        if answer is not None and answer.last is not None and answer.last.usage is not None:
            self._window.learn(messages, answer.last.usage, is_full=is_context_full(answer.last))

    def _edit(self) -> None:
        self._next_text = self._io.edit().strip()
        if not self._next_text:
            self._io.echo("The editor returned no text.")

    def _add_file(self, path: str) -> None:
        file = read_text_file(path, "/file")
        self._files.append(file)
        size = format_count(len(file.text), "character")
        self._io.echo(f"{file.name} ({size}) goes with the next message.")

    def _retry(self) -> None:
        question, removed = self._unanswered, None
        if question is None:
            removed = self.transcript.remove_last()
            if removed is None:
                self._io.echo("There is no question yet.")
                return
            question = removed[0]
        answered = len(self.transcript.turns)
        try:
            # From the cache, the answer would be the same.
            self._ask(question, {**self.options.chat, "cache": "never"})
        finally:
            if removed is not None and len(self.transcript.turns) == answered:
                self.transcript.turns.append(removed)  # no other answer arrived
                self._unanswered = None

    def _undo(self) -> None:
        if self._unanswered is not None:
            self._unanswered = None
            self._io.echo("The question without an answer is forgotten.")
        elif self.transcript.remove_last() is None:
            self._io.echo("There is no question yet.")
        else:
            self._last, self._reasoning = None, ""
            left = format_count(len(self.transcript.turns), "turn")
            self._io.echo(f"The last question and its answer are removed; {left} left.")

    def _reset(self) -> None:
        self.transcript.replace(())
        self._files.clear()
        self._unanswered, self._last, self._reasoning = None, None, ""
        self._io.echo("The conversation is cleared.")

    def _set_model(self, name: str) -> None:
        if name:
            model = self._io.load_model(name)
            self.model = name
            self._window = ContextWindow(self.options.context, model.context_length)
            self.transcript.omitted = 0
        self._io.echo(f"The model is {self.model}.")

    def _set_system(self, text: str) -> None:
        if text:
            self.options.system = text
        self._io.echo(
            f"The system message is: {self.options.system}"
            if self.options.system
            else "There is no system message."
        )

    def _set_option(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        name = name.replace("-", "_")
        if not name:
            self._io.echo(self.options.show())
        elif value.strip() or name not in OPTION_NAMES:
            self.options.set(name, value.strip())
            self._io.echo(f"{name} is now {self.options.get(name)}.")
        else:
            self._io.echo(f"{name} is {self.options.get(name)}.")

    def _show_reasoning(self) -> None:
        if self._reasoning:
            self._io.show_reasoning(self._reasoning)
        else:
            self._io.echo("The last answer has no reasoning.")

    def _show_statistics(self) -> None:
        self._io.echo(format_statistics(self._last, self.transcript))

    def _save(self, path: str) -> None:
        path = path or self._save_path
        if not path:
            raise InvalidRequest("/save needs a name for the file", hint="Such as /save talk.json.")
        system = self.options.system
        first = (Message("system", system),) if system else ()
        location = save_conversation(
            path,
            SavedConversation(
                format="foundry-api conversation",
                model=self.model,
                options=self.options.get_set_options(),
                messages=(*first, *self.transcript.messages),
            ),
        )
        self._save_path = path
        turns = format_count(len(self.transcript.turns), "turn")
        self._io.echo(f"Saved {turns} to {location}.")

    def _load(self, path: str) -> None:
        self.restore(load_conversation(path))
        self._save_path = path
        turns = format_count(len(self.transcript.turns), "turn")
        self._io.echo(f"Loaded {turns}; the model is {self.model}.")

    def restore(self, saved: SavedConversation) -> None:
        """Continue a saved conversation. Raises FoundryError, and then nothing is changed."""
        options = ConversationOptions(
            system=self.options.system, context=self.options.context, think=self.options.think
        )
        for name, value in saved.options.items():
            if name not in CALL_OPTIONS:
                raise InvalidRequest(f"the conversation has an option {name}, which does not exist")
            options.set_chat_option(name, value)
        if saved.model and saved.model != self.model:
            self._set_model(saved.model)
        is_system = bool(saved.messages) and saved.messages[0].role == "system"
        options.system = saved.messages[0].content if is_system else None
        self.options = options
        self.transcript.replace(saved.messages[1:] if is_system else saved.messages)
        self._unanswered, self._last, self._reasoning = None, None, ""


def _strip_quotes(text: str) -> str | None:
    """Return the text between `\"\"\"`; None for a message without them."""
    stripped = text.strip()
    if not stripped.startswith(QUOTES):
        return None
    return stripped.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
