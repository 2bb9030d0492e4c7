"""The log of prompts and conversations, and its verb."""

from __future__ import annotations

import json
import sqlite3
import sys
from typing import TYPE_CHECKING

import pytest

from foundry_api.cli import main
from foundry_api.cli.chat_log import ChatLog, ConversationRecorder
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import FoundryError, InvalidRequest
from foundry_api.types.messages import (
    Chunk,
    FunctionCall,
    Message,
    Timings,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from foundry_api.cli.chat_log import LoggedConversation

    Call = Callable[..., tuple[int, str, str]]

LAST = Chunk("", "m", usage=Usage(3, 4, 7), timings=Timings(0.1, 2.5, None))


def turn(question: str, answer: str = "") -> tuple[Message, ...]:
    return (Message("user", question), Message("assistant", answer or f"echo {question}"))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def log(tmp_path: Path) -> ChatLog:
    return ChatLog(Paths.from_home(tmp_path).chat_log_file, wall_clock=Clock())


def save(
    log: ChatLog, *turns: tuple[Message, ...], stored: LoggedConversation | None = None
) -> LoggedConversation:
    return log.save(
        stored, model="demo", system="Be brief.", options={"seed": 7}, turns=turns, last=LAST
    )


@pytest.fixture
def logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path))

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(["logs", *arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


def test_a_conversation_is_stored_with_its_turns(log: ChatLog) -> None:
    call = ToolCall("1", FunctionCall("clock", "{}"))
    tools = (
        Message("user", "time?"),
        Message("assistant", "", (call,)),
        Message("tool", "12:30", tool_call_id="1"),
        Message("assistant", "12:30"),
    )
    stored = save(log, turn("one"), tools)
    assert log.load() == log.load(stored.id) == stored
    assert (stored.system, stored.options) == ("Be brief.", {"seed": 7})
    assert stored.turns == (turn("one"), tools)
    if sys.platform != "win32":
        assert log.path.stat().st_mode & 0o777 == 0o600


def test_only_what_is_new_is_written(log: ChatLog) -> None:
    stored = save(log, turn("one"))
    stored = save(log, turn("one"), turn("two"), stored=stored)
    with sqlite3.connect(log.path) as database:
        rows = database.execute("select position, at, prompt_tokens, duration_s from turns")
        assert rows.fetchall() == [(0, 1001.0, 3, 2.5), (1, 1002.0, 3, 2.5)]
    database.close()
    save(log, turn("one"), turn("three"), stored=stored)
    assert log.load().turns == (turn("one"), turn("three"))


def test_conversations_are_listed_and_searched(log: ChatLog) -> None:
    first = save(log, turn("one", "Berge sind 100% hoch"))
    save(log, turn("two"))
    save(log, turn("one", "Berge sind 100% hoch"), turn("more"), stored=first)
    assert [(found.id, found.turns, found.question) for found in log.list(10)] == [
        (1, 2, "one"),
        (2, 1, "two"),
    ]
    assert [found.id for found in log.list(1)] == [1]
    assert [found.id for found in log.list(10, "BERGE")] == [1]
    assert [found.id for found in log.list(10, "100%")] == [1]
    assert log.list(10, "1%0") == log.list(10, "_") == []


def test_old_conversations_are_pruned_and_leave_no_trace(log: ChatLog) -> None:
    save(log, turn("a secret word"))
    save(log, turn("two"))
    assert log.prune(1001.5) == 1
    assert [found.question for found in log.list(10)] == ["two"]
    for path in log.path.parent.iterdir():
        assert b"a secret word" not in path.read_bytes()
    assert log.remove() == 1
    assert list(log.path.parent.iterdir()) == []


def test_a_conversation_that_does_not_exist(log: ChatLog) -> None:
    save(log, turn("one"))
    with pytest.raises(InvalidRequest, match="no conversation 9"):
        log.load(9)


def test_a_file_of_another_program_is_refused_and_stays(log: ChatLog) -> None:
    log.path.parent.mkdir(parents=True)
    log.path.write_text("not a database " * 100, encoding="utf-8")
    with pytest.raises(FoundryError, match="config set logs off"):
        log.list(1)
    assert log.path.read_text(encoding="utf-8").startswith("not a database")


def record(recorder: ConversationRecorder, turns: Sequence[tuple[Message, ...]]) -> None:
    recorder.record(model="demo", system=None, options={}, turns=turns, last=None)


def test_a_recorder_follows_a_conversation(log: ChatLog) -> None:
    recorder = ConversationRecorder(log, lambda error: pytest.fail(str(error)))
    record(recorder, [])
    assert not log.exists
    record(recorder, [turn("one")])
    record(recorder, [turn("one"), turn("two")])
    record(recorder, [turn("one"), turn("two")])
    record(recorder, [turn("one")])  # /undo
    assert [(found.id, found.turns) for found in log.list(10)] == [(1, 1)]
    record(recorder, [turn("one", "another answer")])  # /retry
    assert log.load().turns == (turn("one", "another answer"),)
    record(recorder, [])  # /reset
    record(recorder, [turn("new")])
    record(recorder, [turn("loaded"), turn("more")])  # /load
    assert [found.question for found in log.list(10)] == ["loaded", "new", "one"]


def test_a_recorder_goes_on_with_what_is_stored(log: ChatLog) -> None:
    stored = save(log, turn("one"))
    record(ConversationRecorder(log, print, stored), [*stored.turns, turn("two")])
    assert [(found.id, found.turns) for found in log.list(10)] == [(1, 2)]


def test_a_log_that_cannot_be_written_is_reported_once(log: ChatLog) -> None:
    log.path.mkdir(parents=True)
    warnings: list[FoundryError] = []
    recorder = ConversationRecorder(log, warnings.append)
    record(recorder, [turn("one")])
    record(recorder, [turn("one"), turn("two")])
    assert len(warnings) == 1


def test_without_a_log_the_verb_says_how_to_turn_it_on(logs: Call, log: ChatLog) -> None:
    assert "`foundry-api config set logs on`" in logs()[1]
    assert logs("show")[0] == 1
    assert json.loads(logs("list", "--json")[1]) == {"conversations": []}
    assert logs("prune", "--all")[1] == "Deleted 0 conversations.\n"
    assert not log.exists


def test_the_verb_lists_shows_searches_and_prunes(logs: Call, log: ChatLog) -> None:
    save(log, turn("one", "# Title\n*text*"))
    save(log, turn("two " * 100 + "\x1b[2J"))
    lines = logs()[1].splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "2", "1"]
    assert lines[1].endswith("...")
    assert max(map(len, lines)) <= 120
    assert logs("show", "1")[1] == "system: Be brief.\n\n> one\n# Title\n*text*\n\n"
    document = json.loads(logs("show", "1", "--json")[1])
    assert [message["role"] for message in document["messages"]] == ["user", "assistant"]
    assert logs("search", "title")[1].splitlines()[1].split()[0] == "1"
    assert logs("search", "absent")[1] == "No conversation has 'absent'.\n"
    assert logs("show", "9")[0] == 2
    assert logs("prune")[0] == logs("prune", "--all", "--older-than", "1d")[0] == 2
    assert logs("prune", "--older-than", "soon")[0] == 2
    assert logs("prune", "--older-than", "1d", "--json")[1] == '{\n  "deleted": 2\n}\n'
