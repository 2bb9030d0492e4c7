"""Completes commands, and the models, files and options that they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prompt_toolkit.completion import Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from foundry_api.cli.conversation.commands import COMMANDS
from foundry_api.cli.conversation.context import CONTEXT_POLICIES
from foundry_api.cli.conversation.options import DEFAULT_WORD, OPTION_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prompt_toolkit.completion import CompleteEvent

__all__ = ["CommandCompleter"]

_OPTION_VALUES = {"think": ("on", "off"), "context": CONTEXT_POLICIES}


class CommandCompleter(Completer):
    """Completes lines that start with `/`.

    Args:
        get_models: Returns the names of the models of this machine.
    """

    def __init__(self, get_models: Callable[[], Sequence[str]]) -> None:
        self._get_models = get_models
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """Return the completions at the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, argument = text.partition(" ")
        if not space:
            for command in COMMANDS.values():
                if command.name.startswith(name.lower()):
                    yield Completion(
                        command.name,
                        -len(name),
                        display=command.usage,
                        display_meta=command.summary,
                    )
            return
        completes = COMMANDS[name].completes if name in COMMANDS else ""
        if completes == "file":
            yield from self._paths.get_completions(Document(argument), complete_event)
        elif completes == "model":
            yield from _match(argument, self._get_models())
        elif completes == "option":
            option, space, value = argument.partition(" ")
            if space:
                yield from _match(value, (*_OPTION_VALUES.get(option, ()), DEFAULT_WORD))
            else:
                yield from _match(option, OPTION_NAMES)


def _match(start: str, words: Iterable[str]) -> Iterable[Completion]:
    return (Completion(word, -len(start)) for word in words if word.startswith(start))
