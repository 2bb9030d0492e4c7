"""Errors in a conversation name its options as `/set` does, not as flags."""

from __future__ import annotations

from typing import Any

import click
import pytest

from foundry_api.cli.chat import command
from foundry_api.cli.conversation.options import ConversationOptions
from foundry_api.cli.conversation.terminal import TerminalIO
from foundry_api.types.errors import ContextOverflow, FoundryError, ReadTimeout


def _set(name: str, text: str) -> FoundryError:
    with pytest.raises(FoundryError) as raised:
        ConversationOptions().set(name, text)
    return raised.value


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (_set("temperature", "hot"), "Error: temperature is hot, not a number."),
        (_set("colour", "red"), "One of temperature, top_p, max_tokens, seed, stop"),
        (ContextOverflow("too long"), "lower max_tokens"),
        (ReadTimeout("silence"), "Raise --timeout"),
    ],
    ids=["value", "name", "hint", "flag"],
)
def test_an_error_names_options_as_the_conversation_does(
    error: FoundryError, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runner: Any = None  # calls nothing here
    with click.Context(command):
        TerminalIO(runner, lambda _: runner, None).echo_error(error)
    assert text in capsys.readouterr().err
