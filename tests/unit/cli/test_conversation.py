"""The conversation loop: history, commands, interruptions and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foundry_api.cli.conversation import Conversation
from foundry_api.types.errors import FoundryError, ModelNotFound, ServerError, StreamInterrupted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foundry_api.types.messages import Message


class Talk:
    """A conversation in which the user enters lines, and a model echoes them."""

    def __init__(
        self, *lines: str | BaseException, answers: Iterable[str | FoundryError | None] = ()
    ) -> None:
        self._lines = iter(lines)
        self._answers = iter(answers)
        self.messages: list[str] = []
        self.failures: list[FoundryError] = []
        self.requests: list[tuple[str, list[tuple[str, str]]]] = []
        self.conversation = Conversation(
            model="first",
            system=None,
            complete=self._answer,
            select_model=self._choose,
            read=self._read,
            echo=self.messages.append,
            echo_error=self.failures.append,
        )
        self.conversation.run()

    @property
    def history(self) -> list[tuple[str, str]]:
        return [(turn.role, turn.content) for turn in self.conversation.messages]

    def _read(self) -> str:
        line = next(self._lines, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    def _answer(self, model: str, messages: Sequence[Message]) -> str | None:
        self.requests.append((model, [(message.role, message.content) for message in messages]))
        answer = next(self._answers, f"echo {messages[-1].content}")
        if isinstance(answer, FoundryError):
            raise answer
        return answer

    def _choose(self, name: str) -> None:
        if name == "missing":
            raise ModelNotFound("no such model", model=name)


def test_each_turn_is_sent_with_the_history() -> None:
    talk = Talk("one", "two")
    assert talk.requests == [
        ("first", [("user", "one")]),
        ("first", [("user", "one"), ("assistant", "echo one"), ("user", "two")]),
    ]


@pytest.mark.parametrize("leave", [EOFError(), KeyboardInterrupt(), "/quit", "/QUIT", "/exit"])
def test_the_user_quits(leave: str | BaseException) -> None:
    assert Talk("one", leave, "never sent").history == [("user", "one"), ("assistant", "echo one")]


@pytest.mark.parametrize("line", ["/quit now", "/exit please", "/reset all", "/help\tme"])
def test_a_command_with_an_unexpected_argument(line: str) -> None:
    talk = Talk("one", line, "two")
    word = line.split(maxsplit=1)[0]
    assert talk.messages[0] == f"{word} takes no argument: enter {word} alone."
    assert [request[1][-1] for request in talk.requests] == [("user", "one"), ("user", "two")]


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
    output = Talk("/help").messages[0]
    assert all(word in output for word in ("/model", "/system", "/reset", "/quit", "Ctrl-C"))


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
