"""The keys of the prompt, completion and history."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from foundry_api.cli.conversation import history
from foundry_api.cli.conversation.completion import CommandCompleter
from foundry_api.cli.conversation.history import FileHistory
from foundry_api.cli.conversation.prompt import PromptInterrupted, make_prompt

if TYPE_CHECKING:
    from pathlib import Path

COMPLETER = CommandCompleter(lambda: ["demo", "phi-4-mini"])
ENTER, ALT_ENTER, CTRL_C, CTRL_D = "\r", "\x1b\r", "\x03", "\x04"


def type_keys(keys: str, path: Path | None = None) -> str:
    """Return what the prompt returns for the keys that are typed."""
    with create_pipe_input() as keyboard, create_app_session(keyboard, DummyOutput()):
        prompt = make_prompt(COMPLETER, path, DummyOutput())
        keyboard.send_text(keys)
        return asyncio.run(prompt.prompt_async())


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("hello\r", "hello"),
        ("hello\n", "hello"),
        (f"one{ALT_ENTER}two{ENTER}", "one\ntwo"),
        (f'"""{ENTER}one{ENTER}two"""{ENTER}', '"""\none\ntwo"""'),
        (f'"""{ENTER}"""{ENTER}', '"""\n"""'),
        (f"\x1b[200~one\r\ntwo\nthree\x1b[201~{ENTER}", "one\ntwo\nthree"),
        (f"forget this{CTRL_C}hello{ENTER}", "hello"),
    ],
)
def test_enter_sends_a_message_of_any_number_of_lines(keys: str, text: str) -> None:
    assert type_keys(keys) == text


@pytest.mark.parametrize(("keys", "error"), [(CTRL_C, PromptInterrupted), (CTRL_D, EOFError)])
def test_keys_that_quit(keys: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        type_keys(keys)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/mo", ["/model"]),
        ("/S", ["/system", "/set", "/stats", "/save"]),
        ("/model p", ["phi-4-mini"]),
        ("/model ", ["demo", "phi-4-mini"]),
        ("/set t", ["temperature", "top_p", "think"]),
        ("/set think ", ["on", "off", "default"]),
        ("hello /mo", []),
        ("/help me", []),
        ("first\n/mo", []),
    ],
)
def test_commands_and_their_arguments_are_completed(text: str, expected: list[str]) -> None:
    found = COMPLETER.get_completions(Document(text), CompleteEvent())
    starts = [text[: len(text) + item.start_position] + item.text for item in found]
    assert [start.rpartition(" ")[2] for start in starts] == expected


def test_files_are_completed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    found = COMPLETER.get_completions(Document(f"/file {tmp_path}/no"), CompleteEvent())
    assert [item.text for item in found] == ["tes.txt"]


def test_the_history_is_private_and_outlives_the_program(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history"
    assert type_keys(f"one{ALT_ENTER}two{ENTER}", path) == "one\ntwo"
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600
    assert list(FileHistory(path).load_history_strings()) == ["one\ntwo"]


def test_the_history_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_ENTRIES", 3)
    path = tmp_path / "history"
    entries = FileHistory(path)
    for number in range(5):
        entries.store_string(str(number))
    path.write_bytes(path.read_bytes() + b'"cut\n')
    assert list(FileHistory(path).load_history_strings()) == ["4", "3"]
    assert path.read_bytes() == b'"3"\n"4"\n'


def test_a_history_that_cannot_be_used_does_not_stop_the_conversation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = FileHistory(tmp_path)
    entries.store_string("one")
    assert list(entries.load_history_strings()) == []
    assert len(caplog.records) == 2
