"""The conversation loop: history, commands, interruptions and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foundry_api.cli.chat_runner import Answer
from foundry_api.cli.conversation.commands import COMMANDS
from foundry_api.cli.conversation.conversation import Conversation
from foundry_api.cli.conversation.options import ConversationOptions
from foundry_api.types.errors import (
    ContextOverflow,
    FoundryError,
    ModelNotFound,
    ServerError,
    StreamInterrupted,
)
from foundry_api.types.messages import Chunk, Message, Timings, Usage
from foundry_api.types.models import Model

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from foundry_api.core.options import CompletionOptions


class Talk:
    """A conversation in which the user enters lines, and a model echoes them."""

    def __init__(
        self,
        *lines: str | BaseException,
        answers: Iterable[str | FoundryError | None] = (),
        options: ConversationOptions | None = None,
        context_length: int | None = None,
        turns: Sequence[Message] = (),
        edited: str = "from the editor\n",
    ) -> None:
        self._lines = iter(lines)
        self._answers = iter(answers)
        self.context_length = context_length
        self.messages: list[str] = []
        self.failures: list[Exception] = []
        self.defaults: list[str] = []
        self.edited = edited
        self.options: list[CompletionOptions] = []
        self.requests: list[tuple[str, list[tuple[str, str]]]] = []
        loaded = Model(id="f:1", alias="first", catalog="local", context_length=context_length)
        self.conversation = Conversation(
            self, model="first", loaded=loaded, options=options, turns=turns
        )
        self.conversation.run()

    @property
    def history(self) -> list[tuple[str, str]]:
        return [(turn.role, turn.content) for turn in self.conversation.transcript.messages]

    @property
    def questions(self) -> list[str]:
        return [request[1][-1][1] for request in self.requests]

    def read(self, default: str) -> str:
        self.defaults.append(default)
        line = next(self._lines, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    def edit(self) -> str:
        return self.edited

    def answer(
        self, model: str, messages: Sequence[Message], options: CompletionOptions, *, think: bool
    ) -> Answer | None:
        assert think
        self.requests.append((model, [(message.role, message.content) for message in messages]))
        self.options.append(options)
        size = sum(len(message.content) for message in messages)
        if self.context_length is not None and size >= self.context_length:
            raise ContextOverflow(
                "too long", prompt_tokens=size, context_length=self.context_length
            )
        answer = next(self._answers, f"echo {messages[-1].content}")
        if isinstance(answer, FoundryError):
            raise answer
        if answer is None:
            return None
        usage = Usage(size, len(answer), size + len(answer))
        last = Chunk("", model, finish_reason="stop", usage=usage, timings=Timings(0.25, 1.5, 40.0))
        return Answer(answer, last=last, reasoning=f"about {answer}")

    def show_reasoning(self, text: str) -> None:
        self.messages.append(text)

    def load_model(self, name: str) -> Model:
        if name == "slow":
            raise KeyboardInterrupt
        if name == "missing":
            raise ModelNotFound("no such model", model=name)
        return Model(id=f"{name}:1", alias=name, catalog="local")

    def echo(self, text: str) -> None:
        self.messages.append(text)

    def echo_error(self, error: Exception) -> None:
        self.failures.append(error)


def test_each_turn_is_sent_with_the_history() -> None:
    talk = Talk("one", "two")
    assert talk.requests == [
        ("first", [("user", "one")]),
        ("first", [("user", "one"), ("assistant", "echo one"), ("user", "two")]),
    ]


def test_the_last_reasoning_can_be_shown() -> None:
    talk = Talk("/think", "one", "two", "/think", "/undo", "/think")
    none = "The last answer has no reasoning."
    assert talk.messages[:2] == [none, "about echo two"]
    assert talk.messages[-1] == none


@pytest.mark.parametrize("leave", [EOFError(), "/quit", "/QUIT", "/exit", "/bye"])
def test_the_user_quits(leave: str | BaseException) -> None:
    assert Talk("one", leave, "never sent").history == [("user", "one"), ("assistant", "echo one")]


@pytest.mark.parametrize("line", ["/quit now", "/exit please", "/reset all", "/help\tme"])
def test_a_command_with_an_unexpected_argument(line: str) -> None:
    talk = Talk("one", line, "two")
    word = line.split(maxsplit=1)[0]
    assert talk.messages[0] == f"{word} takes no argument: enter {word} alone."
    assert talk.questions == ["one", "two"]


@pytest.mark.parametrize("line", ["/file", "/load"])
def test_a_command_without_its_argument(line: str) -> None:
    assert Talk(line).messages[0] == f"{line} needs an argument: {line} FILE"


@pytest.mark.parametrize(("word", "meant"), [("/qiut", "/quit"), ("/modle", "/model")])
def test_an_unknown_command_suggests_a_similar_one(word: str, meant: str) -> None:
    assert (
        Talk(f"{word} x")
        .messages[0]
        .startswith(f"There is no command {word} (did you mean {meant}?)")
    )


def test_empty_lines_are_not_sent() -> None:
    assert Talk("", "  \t").requests == []


def test_reset_clears_the_turns_but_not_the_system_message() -> None:
    talk = Talk("/system Be brief.", "one", "/reset", "two")
    assert talk.requests[-1] == ("first", [("system", "Be brief."), ("user", "two")])


def test_ctrl_c_while_a_model_is_loaded_keeps_the_conversation() -> None:
    talk = Talk("one", "/model slow", "two")
    assert talk.messages == ["Stopped."]
    assert [model for model, _ in talk.requests] == ["first", "first"]


def test_another_model_gets_the_history() -> None:
    talk = Talk("one", "/model second", "two")
    assert talk.requests[-1][0] == "second"
    assert len(talk.requests[-1][1]) == 3


def test_a_missing_model_is_reported_and_not_selected() -> None:
    talk = Talk("/model missing", "one")
    assert [type(error) for error in talk.failures] == [ModelNotFound]
    assert talk.requests[-1][0] == "first"


def test_commands_without_argument_show_the_current_value() -> None:
    talk = Talk("/model", "/system", "/system Be brief.", "/system")
    assert talk.messages[:2] == ["The model is first.", "There is no system message."]
    assert talk.messages[2] == talk.messages[3] == "The system message is: Be brief."


def test_help_lists_every_command() -> None:
    talk = Talk("/help")
    assert all(name in talk.messages[0] for name in (*COMMANDS, "Ctrl-C", "Alt-Enter"))
    assert max(map(len, talk.messages[0].splitlines())) <= 80


def test_every_command_is_implemented() -> None:
    talk = Talk()
    assert {*talk.conversation._commands, "/quit"} == set(COMMANDS)


def test_an_unknown_command_is_not_sent_to_the_model() -> None:
    talk = Talk("/sytem Be brief.")
    assert talk.requests == []
    assert "/sytem" in talk.messages[0]


@pytest.mark.parametrize("text", ["/etc/hosts is what?", "/ 2", "1/2"])
def test_text_that_starts_with_a_slash_can_be_a_prompt(text: str) -> None:
    assert Talk(text).requests == [("first", [("user", text)])]


def test_the_text_of_an_incomplete_answer_stays_in_the_history() -> None:
    talk = Talk("one", answers=[StreamInterrupted("it broke", partial="half an ans")])
    assert talk.history == [("user", "one"), ("assistant", "half an ans")]
    assert len(talk.failures) == 1


@pytest.mark.parametrize("answer", [ServerError("it failed"), None])
def test_a_question_without_answer_is_not_in_the_history(answer: FoundryError | None) -> None:
    talk = Talk("one", "two", answers=[answer])
    assert talk.requests[1] == ("first", [("user", "two")])


@pytest.mark.parametrize("answer", ["", " \n"])
def test_a_question_with_an_empty_answer_stays_in_the_history(answer: str) -> None:
    talk = Talk("one", "two", answers=[answer])
    assert talk.requests[1] == ("first", [("user", "one"), ("user", "two")])


def test_ctrl_c_at_the_prompt_keeps_the_conversation_and_twice_quits() -> None:
    talk = Talk(KeyboardInterrupt(), "one", KeyboardInterrupt(), KeyboardInterrupt(), "never sent")
    assert talk.questions == ["one"]
    assert talk.messages == ["Press Ctrl-C again to quit."] * 2


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ('"""\none\n\ntwo\n"""', "one\n\ntwo"),
        ('"""one"""', "one"),
        ('"""/help"""', "/help"),
        ("one\ntwo", "one\ntwo"),
    ],
)
def test_a_message_of_several_lines(line: str, question: str) -> None:
    assert Talk(line).questions == [question]


def test_the_editor_fills_the_prompt() -> None:
    talk = Talk("/edit", "sent")
    assert talk.defaults == ["", "from the editor", ""]
    assert talk.questions == ["sent"]


def test_an_editor_without_text_changes_nothing() -> None:
    talk = Talk("/edit", "sent", edited="")
    assert talk.messages == ["The editor returned no text."]
    assert talk.defaults == ["", "", ""]


def test_a_file_goes_with_the_next_message_only(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("content\n", encoding="utf-8")
    talk = Talk(f"/file {tmp_path / 'a.txt'}", "Sum up", "again", "/file missing.txt")
    assert talk.questions == ["Sum up\n\na.txt:\n```\ncontent\n```", "again"]
    assert talk.messages[0] == "a.txt (8 characters) goes with the next message."
    assert "missing.txt cannot be read" in str(talk.failures[0])


def test_retry_asks_the_last_question_again_but_not_the_cache() -> None:
    talk = Talk("one", "two", "/retry", answers=["1", "2", "3"])
    assert talk.questions == ["one", "two", "two"]
    assert [content for _, content in talk.history] == ["one", "1", "two", "3"]
    assert [options.get("cache") for options in talk.options] == [None, None, "never"]


def test_a_retry_that_fails_keeps_the_earlier_answer() -> None:
    talk = Talk("one", "/retry", answers=["1", ServerError("it failed")])
    assert [content for _, content in talk.history] == ["one", "1"]


def test_a_question_that_failed_can_be_asked_again() -> None:
    talk = Talk("one", "two", "/retry", answers=["1", ServerError("it failed"), "2"])
    assert talk.questions == ["one", "two", "two"]
    assert [content for _, content in talk.history] == ["one", "1", "two", "2"]


def test_undo_removes_the_last_turn() -> None:
    talk = Talk("one", "two", "/undo", "three", "/undo", "/undo", "/undo")
    assert talk.requests[-1] == (
        "first",
        [("user", "one"), ("assistant", "echo one"), ("user", "three")],
    )
    assert talk.messages == [
        "The last question and its answer are removed; 1 turn left.",
        "The last question and its answer are removed; 1 turn left.",
        "The last question and its answer are removed; 0 turns left.",
        "There is no question yet.",
    ]


@pytest.mark.parametrize("line", ["/retry", "/undo"])
def test_there_is_nothing_to_repeat_or_remove(line: str) -> None:
    assert Talk(line).messages == ["There is no question yet."]


def test_options_are_set_shown_and_unset() -> None:
    talk = Talk(
        "/set temperature 0.5", "/set max_tokens 1_000", "/set top-p 1", "/set stop END", "one",
        "/set temperature default", "/set temperature", "two", "/set",
    )  # fmt: skip
    assert talk.options[0] == {
        "temperature": 0.5, "max_tokens": 1000, "top_p": 1, "stop": ("END",),
    }  # fmt: skip
    assert talk.options[1]["temperature"] is None
    assert talk.messages[:2] == ["temperature is now 0.5.", "max_tokens is now 1000."]
    assert "temperature is default." in talk.messages
    assert "stop         'END'" in talk.messages[-1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set temperature 9", "temperature is 9, but must be from 0 to 2"),
        ("/set seed many", "seed is many, not a number"),
        ("/set max_tokens 1.5", "max_tokens is 1.5, not a whole number"),
        ("/set colour red", "there is no option colour"),
        ("/set colour", "there is no option colour"),
        ("/set think maybe", "think is maybe"),
        ("/set context most", "context is most"),
        ("/save", "/save needs a name"),
        ("/load missing.json", "missing.json cannot be read"),
    ],
)
def test_an_invalid_command_changes_nothing_and_says_what_is_valid(line: str, message: str) -> None:
    talk = Talk(line, "one")
    assert message in str(talk.failures[0])
    assert not {value for value in talk.options[0].values() if value is not None}


def test_statistics_of_the_last_answer() -> None:
    talk = Talk("/stats", "one", "/stats")
    assert talk.messages[0].splitlines() == [
        "answer        none that is complete",
        "conversation  0 turns",
    ]
    assert talk.messages[1].splitlines() == [
        "prompt        3 tokens",
        "answer        8 tokens",
        "first token   250 ms",
        "total         1.5 s",
        "speed         40.0 tokens/s",
        "conversation  1 turn",
    ]


def test_a_saved_conversation_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    Talk("/system Be brief.", "/set seed 7", "one", f"/save {path}")
    assert path.stat().st_mode & 0o077 == 0 or path.drive
    talk = Talk(f"/load {path}", "two", "/save")
    assert talk.requests[0] == (
        "first",
        [("system", "Be brief."), ("user", "one"), ("assistant", "echo one"), ("user", "two")],
    )
    assert talk.options[0]["seed"] == 7
    assert talk.messages[-1] == f"Saved 2 turns to {path}."


def test_a_file_of_another_kind_is_neither_replaced_nor_loaded(tmp_path: Path) -> None:
    path = tmp_path / "precious.json"
    path.write_text('{"messages": 5}', encoding="utf-8")
    talk = Talk("one", f"/save {path}", "/save", f"/load {path}", "two")
    assert "exists and is no saved conversation" in str(talk.failures[0])
    assert "/save needs a name" in str(talk.failures[1])
    assert "is no conversation" in str(talk.failures[2])
    assert path.read_text(encoding="utf-8") == '{"messages": 5}'
    assert len(talk.requests[-1][1]) == 3


QUESTIONS = ("a" * 40, "b" * 40, "c" * 40, "d" * 40)


def get_initials(talk: Talk) -> list[str]:
    return [content[0] for role, content in talk.requests[-1][1] if role == "user"]


def test_the_oldest_turns_leave_a_full_context() -> None:
    talk = Talk(*QUESTIONS, "/stats", "/undo", context_length=240)
    assert talk.failures == []
    assert get_initials(talk) == ["c", "d"]
    assert talk.messages[0] == (
        "The conversation outgrew the model's context of 240 tokens: "
        "1 turn at the start is no longer sent."
    )
    assert "4 turns, 2 no longer sent" in talk.messages[-2]
    assert len(talk.history) == 6  # all but the one that was undone


def test_the_first_turn_is_kept_on_request() -> None:
    talk = Talk("/set context keep", *QUESTIONS, context_length=240)
    assert talk.failures == []
    assert get_initials(talk) == ["a", "d"]
    assert "after the first" in talk.messages[1]


def test_a_full_context_can_be_an_error() -> None:
    talk = Talk(*QUESTIONS, options=ConversationOptions(context="error"), context_length=240)
    assert [type(error) for error in talk.failures] == [ContextOverflow]
    assert talk.messages == []


def test_turns_leave_after_an_overflow_that_was_not_foreseen() -> None:
    turns = [Message("user", "x" * 300), Message("assistant", "y" * 300)] * 5
    talk = Talk("now", turns=turns, context_length=1500)
    assert talk.failures == []
    assert len(talk.requests) == 2
    assert talk.requests[-1][1][-1] == ("user", "now")


def test_a_question_that_alone_is_too_long_is_an_error_and_no_turn_leaves() -> None:
    for turns in ((), [Message("user", "first"), Message("assistant", "answer")]):
        talk = Talk("one", "x" * 500, "/retry", "two", context_length=240, turns=turns)
        assert [type(error) for error in talk.failures] == [ContextOverflow] * 2
        assert talk.messages == []
        assert len(talk.requests[-1][1]) == len(turns) + 3
