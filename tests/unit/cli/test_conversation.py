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
    """A conversation with a user who says given lines, and a model that echoes."""

    def __init__(
        self, *lines: str | BaseException, answers: Iterable[str | FoundryError | None] = ()
    ) -> None:
        self._lines = iter(lines)
        self._answers = iter(answers)
        self.told: list[str] = []
        self.failures: list[FoundryError] = []
        self.asked: list[tuple[str, list[tuple[str, str]]]] = []
        self.conversation = Conversation(
            model="first",
            system=None,
            complete=self._answer,
            select_model=self._choose,
            read=self._read,
            echo=self.told.append,
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
        self.asked.append((model, [(message.role, message.content) for message in messages]))
        answer = next(self._answers, f"echo {messages[-1].content}")
        if isinstance(answer, FoundryError):
            raise answer
        return answer

    def _choose(self, name: str) -> None:
        if name == "missing":
            raise ModelNotFound("no such model", model=name)


def test_each_turn_is_sent_with_the_history_before_it() -> None:
    talk = Talk("one", "two")
    assert talk.asked == [
        ("first", [("user", "one")]),
        ("first", [("user", "one"), ("assistant", "echo one"), ("user", "two")]),
    ]


@pytest.mark.parametrize("leave", [EOFError(), KeyboardInterrupt(), "/quit", "/QUIT", "/exit"])
def test_the_user_leaves(leave: str | BaseException) -> None:
    assert Talk("one", leave, "never said").history == [("user", "one"), ("assistant", "echo one")]


@pytest.mark.parametrize("line", ["/quit now", "/exit please", "/reset all", "/help\tme"])
def test_a_command_with_words_that_it_does_not_take_says_how_to_enter_it(line: str) -> None:
    talk = Talk("one", line, "two")
    word = line.split(maxsplit=1)[0]
    assert talk.told[0] == f"{word} takes no argument: enter {word} alone."
    assert [asked[1][-1] for asked in talk.asked] == [("user", "one"), ("user", "two")]


@pytest.mark.parametrize(("word", "meant"), [("/qiut", "/quit"), ("/modle", "/model")])
def test_an_unknown_command_names_the_nearest(word: str, meant: str) -> None:
    assert (
        Talk(f"{word} x").told[0].startswith(f"There is no command {word} (did you mean {meant}?)")
    )


def test_empty_lines_are_not_asked() -> None:
    assert Talk("", "  \t").asked == []


def test_reset_forgets_the_turns_but_not_the_instructions() -> None:
    talk = Talk("/system Be brief.", "one", "/reset", "two")
    assert talk.asked[-1] == ("first", [("system", "Be brief."), ("user", "two")])


def test_another_model_goes_on_with_the_history() -> None:
    talk = Talk("one", "/model second", "two")
    assert talk.asked[-1][0] == "second"
    assert len(talk.asked[-1][1]) == 3


def test_a_model_that_is_missing_is_told_and_not_taken() -> None:
    talk = Talk("/model missing", "one")
    assert [type(error) for error in talk.failures] == [ModelNotFound]
    assert talk.asked[-1][0] == "first"


def test_commands_without_text_tell_what_is_set() -> None:
    talk = Talk("/model", "/system", "/system Be brief.", "/system")
    assert talk.told[:2] == ["The model is first.", "There is no system message."]
    assert talk.told[2] == talk.told[3] == "The system message is: Be brief."


def test_help_lists_every_command() -> None:
    told = Talk("/help").told[0]
    assert all(word in told for word in ("/model", "/system", "/reset", "/quit", "Ctrl-C"))


def test_an_unknown_command_is_not_sent_to_the_model() -> None:
    talk = Talk("/sytem Be brief.")
    assert talk.asked == []
    assert "/sytem" in talk.told[0]


@pytest.mark.parametrize("text", ["/etc/hosts is what?", "/ 2", "1/2"])
def test_text_that_begins_with_a_slash_need_not_be_a_command(text: str) -> None:
    assert Talk(text).asked == [("first", [("user", text)])]


def test_what_was_said_of_a_broken_answer_stays() -> None:
    talk = Talk("one", answers=[StreamInterrupted("it broke", partial="half an ans")])
    assert talk.history == [("user", "one"), ("assistant", "half an ans")]
    assert len(talk.failures) == 1


@pytest.mark.parametrize("answer", [ServerError("it failed"), None])
def test_a_question_of_which_nothing_arrived_leaves_no_trace(answer: FoundryError | None) -> None:
    talk = Talk("one", "two", answers=[answer])
    assert talk.asked[1] == ("first", [("user", "two")])


@pytest.mark.parametrize("answer", ["", " \n"])
def test_a_question_whose_answer_has_no_text_stays(answer: str) -> None:
    talk = Talk("one", "two", answers=[answer])
    assert talk.asked[1] == ("first", [("user", "one"), ("user", "two")])
