"""Reads a message at the prompt: keys, history and completion."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.filters import is_searching
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.output import create_output
from prompt_toolkit.styles import Style

from foundry_api.cli.output import is_terminal

if sys.platform != "win32":
    import termios

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from prompt_toolkit.completion import Completer
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.key_binding import KeyPressEvent
    from prompt_toolkit.output import Output

__all__ = ["PromptInterrupted", "make_prompt", "silence_keyboard"]

PROMPT = "> "
CONTINUATION = "  "
PLACEHOLDER = "Send a message; /help lists commands"
QUOTES = '"""'
# Lines that are kept free under the prompt for the menu of completions.
MENU_LINES = 6
STYLE = Style.from_dict({"placeholder": "ansibrightblack", "prompt": "bold"})


class PromptInterrupted(Exception):
    """Ctrl-C at an empty prompt. A KeyboardInterrupt would stop the event loop."""


def make_prompt(
    completer: Completer, history_path: Path | None, output: Output | None = None
) -> PromptSession[str]:
    """Return the prompt; the history is kept in memory without a path."""
    if output is None:
        # `foundry-api chat > file`: the prompt must not be in the file.
        output = create_output(sys.stdout if is_terminal(sys.stdout) else sys.stderr)
    history: History = InMemoryHistory()
    if history_path is not None:
        from foundry_api.cli.conversation.history import FileHistory  # noqa: PLC0415 - see the name

        history = FileHistory(history_path)
    return PromptSession(
        [("class:prompt", PROMPT)],
        multiline=True,  # Enter sends nevertheless, see below
        prompt_continuation=CONTINUATION,
        placeholder=_get_placeholder,
        style=STYLE,
        history=history,
        completer=completer,
        complete_while_typing=True,
        reserve_space_for_menu=MENU_LINES,
        enable_open_in_editor=True,  # Ctrl-X Ctrl-E
        key_bindings=_make_key_bindings(),
        interrupt_exception=PromptInterrupted,
        output=output,
    )


def _get_placeholder() -> StyleAndTextTuples:
    # Not on the line that stays on the screen after Ctrl-C.
    return [] if get_app().is_done else [("class:placeholder", PLACEHOLDER)]


def _make_key_bindings() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=~is_searching)
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        text = buffer.text.strip()
        is_open = text.startswith(QUOTES) and (len(text) < 6 or not text.endswith(QUOTES))  # noqa: PLR2004 - both quotes
        if is_open:
            buffer.newline()
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def start_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline()

    @keys.add("c-c", filter=~is_searching)
    @keys.add("<sigint>")
    def interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=PromptInterrupted(), style="class:exiting")

    return keys


@contextlib.contextmanager
def silence_keyboard() -> Generator[None]:
    """Do not show what is typed while an answer is printed; the next prompt shows it."""
    if sys.platform == "win32" or not is_terminal(sys.stdin):
        yield
        return
    descriptor = sys.stdin.fileno()
    modes = termios.tcgetattr(descriptor)
    silent = modes.copy()
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSANOW, silent)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSANOW, modes)
