"""The command line on a terminal: conversation, colours, spinner and questions."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foundry_api.testing import FakeService
from support.cli_program import Terminal, catalog_engine, run

if TYPE_CHECKING:
    from foundry_api.engine.endpoint import Endpoint

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="the standard library opens no pseudo terminal on Windows"
)


@pytest.fixture
def shared_home(engine: Endpoint) -> Path:
    """The home of the shared engine, which has the scripted model."""
    del engine
    return Path(os.environ["FOUNDRY_TEST_HOME"])


def test_a_conversation_continues_after_ctrl_c_and_ends_with_ctrl_d(shared_home: Path) -> None:
    with Terminal("chat", "-m", "scripted", home=shared_home) as terminal:
        terminal.expect("Chatting with scripted. /help lists commands; Ctrl-D quits.")
        terminal.type_line("say-hello", "Hello, world!")
        terminal.type_line("say-slowly", "tock tock ")
        terminal.interrupt()
        terminal.expect("> ")
        terminal.type_line("say-lines", "C:\\path")
        terminal.type_line("/think", "The last answer has no reasoning.")
        terminal.type_line("say-think", "Thought for")
        terminal.expect(", 3 words. /think shows it.")
        terminal.expect("42")
        terminal.type_line("/think", "Six times seven.")
        terminal.type_line("/nonsense", "There is no command /nonsense")
        terminal.expect("> ")
        terminal.send_end_of_input()
        assert terminal.exit_code() == 0


async def test_a_question_with_only_reasoning_stays_in_the_history(tmp_path: Path) -> None:
    def talk(base_url: str) -> None:
        with Terminal("chat", "--base-url", base_url, "-m", "fake", home=tmp_path) as terminal:
            terminal.expect("> ")
            terminal.type_line("one", "The model returned no text after its reasoning.")
            terminal.expect("> ")
            terminal.type_line("two", "Two.")
            terminal.expect("> ")
            terminal.send_end_of_input()
            assert terminal.exit_code() == 0

    async with FakeService("<think>Hm.</think>", "Two.") as service:
        await asyncio.to_thread(talk, service.base_url)
    turns = [(turn["role"], turn["content"]) for turn in service.requests[1]["messages"]]
    assert turns == [("user", "one"), ("user", "two")]


def test_ctrl_c_at_the_prompt_keeps_the_conversation_and_twice_quits(shared_home: Path) -> None:
    with Terminal("chat", "-m", "scripted", home=shared_home) as terminal:
        terminal.expect("> ")
        terminal.press("unwanted\x03")
        terminal.type_line("say-hello", "Hello, world!")
        terminal.expect("> ")
        terminal.press("\x03")
        terminal.expect("Press Ctrl-C again to quit.")
        terminal.expect("> ")
        terminal.press("\x03")
        assert terminal.exit_code() == 0


def test_pasted_lines_are_one_message(tmp_path: Path) -> None:
    def talk(base_url: str) -> None:
        with Terminal("chat", "--base-url", base_url, "-m", "fake", home=tmp_path) as terminal:
            terminal.expect("> ")
            terminal.press("\x1b[200~one\ntwo\x1b[201~\r")
            terminal.expect("Fine.")
            terminal.expect("> ")
            terminal.send_end_of_input()
            assert terminal.exit_code() == 0

    async def serve() -> FakeService:
        async with FakeService("Fine.") as service:
            await asyncio.to_thread(talk, service.base_url)
        return service

    messages = asyncio.run(serve()).requests[0]["messages"]
    assert [message["content"] for message in messages] == ["one\ntwo"]


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ([], "A \x1b[1mbold\x1b[0m \\x1b[2J word.\r\n"),
        (["--plain"], "A **bold** \\x1b[2J word.\r\n"),
    ],
)
async def test_markdown_is_shown_without_the_control_characters_of_the_model(
    tmp_path: Path, flags: list[str], shown: str
) -> None:
    def ask(base_url: str) -> None:
        arguments = ("chat", "--base-url", base_url, "-m", "fake", *flags, "hi")
        with Terminal(*arguments, home=tmp_path) as terminal:
            terminal.expect(shown)
            assert terminal.exit_code() == 0

    async with FakeService("A **bold** \x1b[2J word.") as service:
        await asyncio.to_thread(ask, service.base_url)


def test_a_conversation_with_tools_shows_their_calls(shared_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "clock.py"
    path.write_text(
        'def time_in(city: str) -> str:\n    """Tell the time."""\n    return "12:30"\n',
        encoding="utf-8",
    )
    arguments = ("chat", "-m", "demo", "--temperature", "0", "--tool", f"{path}:time_in")
    with Terminal(*arguments, home=shared_home) as terminal:
        terminal.expect("> ")
        terminal.type_line("What time is it in Bern?", 'time_in({"city":"Bern"}) = 12:30')
        terminal.expect("12:30")
        terminal.expect("> ")
        terminal.type_line(f"/save {tmp_path / 'talk.json'}", "Saved 1 turn")
        terminal.expect("> ")
        terminal.send_end_of_input()
        assert terminal.exit_code() == 0
    saved = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    roles = [message["role"] for message in saved["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant"]


def test_a_conversation_goes_on_when_it_outgrows_the_context(shared_home: Path) -> None:
    """The context of the scripted model has 8192 tokens, one for each character."""
    with Terminal("chat", "-m", "scripted", home=shared_home) as terminal:
        for number in range(3):
            terminal.expect("> ")
            terminal.press(f"\x1b[200~{'x' * 3000} say-hello {number}\x1b[201~\r")
            if number == 2:
                terminal.expect("outgrew the model's context of 8,192 tokens: 1 turn")
            terminal.expect("Hello, world!")
        terminal.expect("> ")
        terminal.send_end_of_input()
        assert terminal.exit_code() == 0


def test_a_spinner_is_shown_until_the_answer(shared_home: Path) -> None:
    with Terminal("chat", "-m", "scripted", "say-after-a-while", home=shared_home) as terminal:
        terminal.expect("Waiting for scripted ...")
        terminal.expect("Sorry to be late.")
        assert terminal.exit_code() == 0


def test_a_missing_model_is_offered_for_download(own_home: Path) -> None:
    with catalog_engine(own_home), Terminal("chat", home=own_home) as terminal:
        terminal.expect("phi-4-mini is known, but its files (1 MB) are not on this machine.")
        terminal.type_line("n", "Download it now (1 MB)? [y/N]")
        terminal.expect("phi-4-mini is not here; use demo (2 M parameters, for trying out)? [Y/n]")
        terminal.press("n\n")
        terminal.expect("`foundry-api models pull phi-4-mini`")
        assert terminal.exit_code() == 1


def test_a_newcomer_without_the_network_is_offered_the_demo_model(shared_home: Path) -> None:
    question = "phi-4-mini is not here; use demo (2 M parameters, for trying out)? [Y/n]"
    with Terminal("chat", "Hello", home=shared_home, FOUNDRY_MODEL="") as terminal:
        terminal.expect(question)
        terminal.press("\n")
        terminal.expect("`foundry-api config set model demo` makes it the default.")
        assert terminal.exit_code() == 0
    with Terminal("chat", "-m", "phi-4-mini", "Hello", home=shared_home) as terminal:
        assert question not in terminal.expect("`--model demo` works now")
        assert terminal.exit_code() == 1


def test_the_history_is_on_disk_only_if_the_user_wants_that(shared_home: Path) -> None:
    history = shared_home / "state" / "history"
    for is_on in (False, True):
        if is_on:
            run("config", "set", "history", "on", home=shared_home)
        with Terminal("chat", "-m", "scripted", home=shared_home) as terminal:
            terminal.expect("> ")
            terminal.type_line("say-hello", "Hello, world!")
            terminal.expect("> ")
            terminal.send_end_of_input()
            assert terminal.exit_code() == 0
        run("config", "unset", "history", home=shared_home)
        assert history.exists() == is_on
    assert history.read_text(encoding="utf-8") == '"say-hello"\n'
    assert history.stat().st_mode & 0o777 == 0o600
    history.unlink()


def test_a_logged_conversation_is_continued(shared_home: Path) -> None:
    run("config", "set", "logs", "on", home=shared_home)
    try:
        for flags, line in ((("-m", "scripted"), "say-hello"), (("-c",), "say-lines")):
            with Terminal("chat", *flags, home=shared_home) as terminal:
                if "-c" in flags:
                    terminal.expect("This continues a conversation of 1 turn.")
                terminal.expect("> ")
                terminal.type_line(line, "Hello, world!" if line == "say-hello" else "C:\\path")
                terminal.expect("> ")
                terminal.send_end_of_input()
                assert terminal.exit_code() == 0
        (logged,) = json.loads(run("logs", "--json", home=shared_home).stdout)["conversations"]
        assert (logged["turns"], logged["model"]) == (2, "scripted")
    finally:
        run("config", "unset", "logs", home=shared_home)
        run("logs", "prune", "--all", home=shared_home)


def test_health_shows_graphs_and_a_summary(shared_home: Path) -> None:
    with Terminal("health", "--count", "2", "--interval", "0.1", home=shared_home) as terminal:
        terminal.expect("healthy")
        terminal.expect("latency")
        terminal.expect("Total")
        terminal.expect("available")
        assert terminal.exit_code() == 0


def test_ctrl_c_ends_health_with_the_summary(shared_home: Path) -> None:
    with Terminal("health", "--watch", "--interval", "0.1", home=shared_home) as terminal:
        terminal.expect("latency")
        terminal.interrupt()
        terminal.expect("Total")
        assert terminal.exit_code() == 130


def test_reasoning_is_hidden_on_request(shared_home: Path) -> None:
    with Terminal(
        "chat", "--no-think", "-m", "scripted", "say-think", home=shared_home
    ) as terminal:
        assert "Six times seven." not in terminal.expect("42")
        assert terminal.exit_code() == 0


def test_reasoning_is_shown_only_on_a_terminal(shared_home: Path) -> None:
    with Terminal("chat", "-m", "scripted", "say-think", home=shared_home) as terminal:
        terminal.expect("Six times seven.")
        terminal.expect("42")
        assert terminal.exit_code() == 0
