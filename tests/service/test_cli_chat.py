"""`foundry-api chat` as a separate process, with the real engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foundry_api.testing import FakeService
from service.helpers import DEADLINE_S, list_hosts, wait_until
from support.cli_program import catalog_engine, make_command, make_environment, run
from support.scripted_model import prompt_tokens, script

if TYPE_CHECKING:
    from foundry_api.engine.endpoint import Endpoint

needs_sigint = pytest.mark.skipif(
    sys.platform == "win32", reason="a process without a console cannot be sent Ctrl-C on Windows"
)


@pytest.fixture
def shared_home(engine: Endpoint) -> Path:
    """The home of the shared engine, which has the scripted model."""
    del engine
    return Path(os.environ["FOUNDRY_TEST_HOME"])


def test_only_the_answer_is_printed(shared_home: Path) -> None:
    finished = run("chat", "--model", "scripted", "say-hello", home=shared_home)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "Hello, world!\n", "")


@pytest.mark.parametrize("flags", [[], ["--no-stream"]])
def test_pipes_get_unchanged_text(shared_home: Path, flags: list[str]) -> None:
    finished = run(
        "chat", "-m", "scripted", *flags, home=shared_home, stdin="crème say-multibyte\n"
    )
    assert (finished.stdout, finished.stderr) == (script("say-multibyte").text + "\n", "")


def test_json_has_all_members_of_an_answer(shared_home: Path) -> None:
    finished = run(
        *("chat", "--json", "--system", "Be brief.", "--stop", "STOP", "--seed", "1"),
        *("--temperature", "0", "--max-tokens", "99", "-m", "scripted", "say-stop"),
        home=shared_home,
    )
    answer = json.loads(finished.stdout)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "say-stop"},
    ]
    assert answer["content"] == "one two "
    assert answer["model"].startswith("scripted:")
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == prompt_tokens(messages)
    assert answer["attempts"] == 1
    assert answer["timings"]["total_s"] > 0
    assert answer["service"].startswith("http://127.0.0.1:")
    assert finished.stderr == ""


def test_files_stand_between_the_prompt_and_standard_input(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("the notes\n", encoding="utf-8")
    (tmp_path / "system.txt").write_text("Be brief.", encoding="utf-8")
    flags = ("-a", str(tmp_path / "notes.txt"), "--system-file", str(tmp_path / "system.txt"))

    async def ask() -> list[dict[str, object]]:
        async with FakeService("Fine.") as service:
            chat = ("chat", "--base-url", service.base_url, "-m", "fake", *flags, "--top-p", "0.5")
            finished = await asyncio.to_thread(run, *chat, "Sum up", home=tmp_path, stdin="more\n")
        assert (finished.returncode, finished.stdout) == (0, "Fine.\n")
        return service.requests

    (request,) = asyncio.run(ask())
    assert request["top_p"] == 0.5
    assert request["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Sum up\n\nnotes.txt:\n```\nthe notes\n```\n\nmore"},
    ]


def test_what_the_model_cannot_take_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n")
    finished = run("chat", "-a", str(tmp_path / "photo.png"), "Describe this", home=tmp_path)
    assert finished.returncode == 2
    assert "photo.png is not text in UTF-8" in finished.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "photo.png"]  # no engine was started


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--schema", "age integre"], "integre is no type"),
        (["--schema", '{"type": "objekt"}'], "--schema is not a JSON schema"),
        (["--schema", "a", "--tool", "a.py:b"], "--schema and --tool cannot be combined"),
        (["--system", "a", "--system-file", "b"], "either --system or --system-file"),
        (["--tool", "missing.py:f"], "there is no file missing.py"),
        (["--top-p", "2"], "--top-p is 2.0"),
    ],
)
def test_invalid_flags_are_usage_errors_with_their_names(
    shared_home: Path, flags: list[str], message: str
) -> None:
    finished = run("chat", "-m", "demo", *flags, "hello", home=shared_home)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert message in finished.stderr


def test_a_schema_prints_the_answer_as_json(shared_home: Path) -> None:
    chat = ("chat", "-m", "demo", "--schema", "name, age int", "--temperature", "0")
    answer = json.loads(run(*chat, "Invent a person", home=shared_home).stdout)
    assert [type(answer[name]) for name in ("name", "age")] == [str, int]
    document = json.loads(run(*chat, "--json", "Invent a person", home=shared_home).stdout)
    assert document["parsed"] == answer


def test_the_model_calls_a_function_of_a_file(shared_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "clock.py"
    path.write_text(
        'def time_in(city: str) -> str:\n    """Tell the time."""\n    return "12:30"\n',
        encoding="utf-8",
    )
    flags = ("--temperature", "0", "--tool", f"{path}:time_in")
    chat = ("chat", "-m", "demo", *flags, "What time is it in Bern?")
    finished = run(*chat, home=shared_home)
    assert "12:30" in finished.stdout
    assert finished.stderr == ""
    document = json.loads(run(*chat, "--json", home=shared_home).stdout)
    assert document["tool_calls"] == [
        {"name": "time_in", "arguments": {"city": "Bern"}, "result": "12:30"}
    ]


def test_prompts_are_logged_and_continued_only_if_the_user_wants_that(shared_home: Path) -> None:
    chat = ("chat", "-m", "scripted", "-s", "Be brief.", "--seed", "7")
    log = shared_home / "state" / "chats.db"
    run(*chat, "say-hello", home=shared_home)
    assert not log.exists()
    refused = run("chat", "-c", "say-hello", home=shared_home)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "config set logs on" in refused.stderr
    run("config", "set", "logs", "on", home=shared_home)
    try:
        run(*chat, "say-hello", home=shared_home)
        continued = run("chat", "-c", "--json", "say-stop", home=shared_home)
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "say-hello"},
            {"role": "assistant", "content": "Hello, world!"},
            {"role": "user", "content": "say-stop"},
        ]
        assert json.loads(continued.stdout)["usage"]["prompt_tokens"] == prompt_tokens(messages)
        shown = json.loads(run("logs", "show", "--json", home=shared_home).stdout)
        assert [turn["content"] for turn in shown["messages"]][:3] == [
            "say-hello",
            "Hello, world!",
            "say-stop",
        ]
        assert shown["options"] == {"seed": 7}
    finally:
        run("config", "unset", "logs", home=shared_home)
        run("logs", "prune", "--all", home=shared_home)
    assert not log.exists()


@pytest.mark.parametrize("flags", [[], ["--no-stream"]])
def test_a_cut_answer_reports_its_limit(shared_home: Path, flags: list[str]) -> None:
    """Without --max-tokens, the limit is 2048 tokens, or what is left of the context."""
    chat = ("chat", "-m", "scripted", *flags)
    default = run(*chat, "say-forever", home=shared_home)
    assert default.returncode == 0
    assert default.stderr == (
        "The answer was cut off after 2,048 tokens, the limit of the service; "
        "set another with --max-tokens.\n"
    )
    full = run(*chat, "x" * 7000 + " say-forever", home=shared_home)
    left = 8192 - prompt_tokens([{"role": "user", "content": "x" * 7000 + " say-forever"}])
    assert full.stderr == (
        f"The answer was cut off after {left:,} tokens: "
        "together with the prompt, they fill the model's context.\n"
    )
    finished = run(*chat, "--max-tokens", "5", "say-forever", home=shared_home)
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.parametrize("flags", [[], ["--no-stream"]])
async def test_an_answer_without_text_is_reported(tmp_path: Path, flags: list[str]) -> None:
    async with FakeService("<think>Let me see.</think>", "") as service:
        chat = ("chat", "--base-url", service.base_url, "-m", "fake", *flags, "hi")
        thought = await asyncio.to_thread(run, *chat, home=tmp_path)
        silent = await asyncio.to_thread(run, *chat, home=tmp_path)
    assert (thought.returncode, thought.stdout) == (0, "")
    assert thought.stderr == "The model returned no text after its reasoning.\n"
    assert (silent.returncode, silent.stdout) == (0, "")
    assert silent.stderr == "The model returned no text.\n"


def test_a_full_context_is_not_blamed_on_max_tokens(
    shared_home: Path,
) -> None:
    finished = run("chat", "-m", "scripted", "-", home=shared_home, stdin="x" * 9000)
    assert finished.returncode == 2
    assert "the prompt has 90" in finished.stderr
    assert "no room for an answer in the model's context of 8192" in finished.stderr
    assert "2048" not in finished.stderr
    assert "max_tokens" not in finished.stderr


def test_an_invalid_option_is_a_usage_error(shared_home: Path) -> None:
    finished = run("chat", "-m", "scripted", "--temperature", "9", "hello", home=shared_home)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith("Error: --temperature is 9.0")


def test_a_timeout_is_an_error_with_a_hint(shared_home: Path) -> None:
    finished = run(
        "chat", "-m", "scripted", "--timeout", "0.2", "say-after-a-while", home=shared_home,
        FOUNDRY_RETRIES="0",
    )  # fmt: skip
    assert (finished.returncode, finished.stdout) == (1, "")
    assert "Raise --timeout" in finished.stderr


def test_a_deadline_reports_the_stage(shared_home: Path) -> None:
    finished = run(
        "chat", "-m", "scripted", "--deadline", "0.2", "say-after-a-while", home=shared_home
    )
    assert (finished.returncode, finished.stdout) == (1, "")
    assert "the deadline of 0.2 s passed; it was " in finished.stderr


def test_logs_go_to_standard_error_on_request(shared_home: Path) -> None:
    for flags, variables in ((["-v"], {}), ([], {"FOUNDRY_LOG_LEVEL": "info"})):
        finished = run("chat", *flags, "-m", "scripted", "say-hello", home=shared_home, **variables)
        assert finished.stdout == "Hello, world!\n"
        assert "INFO foundry_api: call 1 to scripted:1 answered" in finished.stderr


def test_a_closed_pipe_ends_the_command_quietly(shared_home: Path) -> None:
    with chatting("say-forever", home=shared_home) as chat:
        assert chat.stdout is not None
        assert chat.stdout.read(4) == b"tick"
        chat.stdout.close()
        assert chat.stderr is not None
        assert chat.stderr.read() == b""
        assert chat.wait(DEADLINE_S) == 1


@needs_sigint
def test_ctrl_c_stops_the_answer_and_the_engine(own_home: Path, tmp_path: Path) -> None:
    """No service is running, so the command starts a temporary engine, which must stop."""
    from support.scripted_model import build  # noqa: PLC0415 - onnx is slow to import

    build(tmp_path / "scripted")
    added = run(
        "models", "register", str(tmp_path / "scripted"), "--alias", "scripted", home=own_home
    )
    assert added.stdout == "scripted is registered: scripted:1\n"
    with chatting("say-slowly", home=own_home) as chat:
        assert chat.stdout is not None
        output = chat.stdout.read(len("tock tock"))
        chat.send_signal(signal.SIGINT)
        rest, stderr = chat.communicate(timeout=DEADLINE_S)
        assert output + rest == ("tock " * 99).encode()[: len(output + rest) - 1] + b"\n"
        # It ends by the signal itself: with an exit code, a loop of the shell would go on.
        assert (stderr.strip(), chat.returncode) == (b"", -signal.SIGINT)
    wait_until(lambda: not list_hosts(own_home))


def test_a_missing_model_has_a_hint_how_to_download_it(own_home: Path) -> None:
    with catalog_engine(own_home):
        finished = run("chat", "hello", home=own_home)
        assert (finished.returncode, finished.stdout) == (1, "")
        assert finished.stderr.startswith(
            "Error: phi-4-mini is known, but its files (1 MB) are not on"
        )
        assert "`foundry-api models pull phi-4-mini`" in finished.stderr
        assert "`--model demo` works now" in finished.stderr

        as_json = run("chat", "--json", "hello", home=own_home, FOUNDRY_MODEL="far-away")
        error = json.loads(as_json.stdout)["error"]
        assert (error["type"], error["model"]) == ("ModelNotCached", "far-away")
        assert as_json.stderr == ""


def chatting(prompt: str, *, home: Path) -> subprocess.Popen[bytes]:
    """A chat whose answer is in progress."""
    return subprocess.Popen(
        make_command("chat", "-m", "scripted", prompt),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=make_environment(home),
    )
