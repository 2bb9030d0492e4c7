"""Asking again: with what was wrong, no more often than allowed, and with everything counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from foundry_api.resilience.deadline import Deadline
from foundry_api.structured.expectation import OutputSpec
from foundry_api.structured.repair import complete_with_repairs
from foundry_api.types.errors import (
    ContextOverflow,
    DeadlineExceeded,
    GrammarError,
    ServerError,
    StructuredOutputError,
)
from foundry_api.types.messages import (
    AttemptRecord,
    ChoiceConstraint,
    Completion,
    FunctionCall,
    Message,
    Timings,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    from foundry_api.types.errors import FoundryError
    from foundry_api.types.messages import Constraint
    from support.no_real_time import Run

ASKED = (Message("system", "Be brief."), Message("user", "How many?"))
NUMBER = OutputSpec.from_arguments(parser=int)
STUMBLED = "token generation failed: Error committing tokens: Parser Error: token"


def said(content: str, **members: Any) -> Completion[None]:
    plain = Completion(
        content=content,
        parsed=None,
        model="tiny:1",
        service="http://service",
        service_generation="sdk-2.1",
        finish_reason="stop",
        usage=Usage(10, 5, 15),
        timings=Timings(0.1, 1.0, 50.0, 0.25),
        attempts=(AttemptRecord(0.9),),
    )
    return msgspec.structs.replace(plain, **members)


class Model:
    """Answers in turn, and remembers what it was asked."""

    def __init__(self, *answers: Completion[None] | FoundryError) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[tuple[Message, ...], Constraint | None]] = []
        self.repetitions: list[int] = []

    async def ask(
        self, turns: tuple[Message, ...], constraint: Constraint | None, repetitions: int
    ) -> Completion[None]:
        self.asked.append((turns, constraint))
        self.repetitions.append(repetitions)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(
    run: Run, model: Model, expectation: OutputSpec = NUMBER, repairs: int = 2
) -> Completion[Any]:
    return run(complete_with_repairs(model.ask, ASKED, expectation, max_repairs=repairs))


def failure(
    run: Run, model: Model, expectation: OutputSpec = NUMBER, repairs: int = 2
) -> StructuredOutputError:
    with pytest.raises(StructuredOutputError) as caught:
        answer(run, model, expectation, repairs)
    return caught.value


def test_an_answer_that_passes_is_not_asked_for_again(run: Run) -> None:
    model = Model(said("12"))
    completion = answer(run, model)
    assert (completion.parsed, completion.repairs) == (12, 0)
    assert model.asked == [(ASKED, None)]
    assert completion == said("12", parsed=12)


def test_one_that_does_not_is_asked_for_with_what_is_wrong(run: Run) -> None:
    model = Model(said("twelve"), said("12"))
    assert (completion := answer(run, model)).parsed == 12
    assert completion.repairs == 1
    turns, _ = model.asked[1]
    assert turns[:3] == (*ASKED, Message("assistant", "twelve"))
    assert turns[3].role == "user"
    assert "- the answer cannot be parsed: invalid literal for int()" in turns[3].content


def test_a_model_that_repeats_itself_is_asked_afresh_and_in_another_way(run: Run) -> None:
    model = Model(*map(said, ("a", "a", "b", "a", "12")))
    answer(run, model, repairs=4)
    assert model.repetitions == [0, 0, 1, 1, 2]
    assert [turns == ASKED for turns, _ in model.asked] == [True, False, True, False, True]


def test_what_all_the_answers_took_is_added_up(run: Run) -> None:
    completion = answer(run, Model(said("a"), said("b"), said("12")))
    assert completion.usage == Usage(30, 15, 45)
    assert completion.timings == Timings(0.1, 3.0, 50.0, 0.75)
    assert len(completion.attempts) == 3


def test_the_conversation_does_not_grow_with_every_repair(run: Run) -> None:
    """A prompt that grew would not fit into the context sooner or later."""
    model = Model(said("a"), said("b"), said("12"))
    answer(run, model)
    turns, _ = model.asked[2]
    assert [each.content for each in turns[:-1]] == ["Be brief.", "How many?", "b"]


@pytest.mark.parametrize("repairs", [0, 1, 3])
def test_after_the_last_repair_the_caller_gets_it_all(run: Run, repairs: int) -> None:
    model = Model(*(said(f"no {index}") for index in range(repairs + 1)))
    error = failure(run, model, repairs=repairs)
    assert len(model.asked) == repairs + 1
    assert (error.repairs, error.attempts) == (repairs, repairs + 1)
    assert error.partial == f"no {repairs}"
    assert (error.model, error.service) == ("tiny:1", "http://service")
    assert error.errors == (
        f"the answer cannot be parsed: invalid literal for int() with base 10: 'no {repairs}'",
    )
    assert "larger model" in error.hint


def test_an_answer_that_was_cut_is_no_answer_and_not_asked_for_again(run: Run) -> None:
    """Although what there is of it would pass."""
    model = Model(said("12", finish_reason="length"))
    error = failure(run, model, OutputSpec.from_arguments(response_model=int))
    assert error.message == "the answer was cut before its end"
    assert "max_tokens" in error.hint
    assert (error.finish_reason, error.repairs, error.partial) == ("length", 0, "12")


def test_a_parser_may_take_an_answer_that_was_cut(run: Run) -> None:
    assert answer(run, Model(said("12", finish_reason="length"))).parsed == 12
    error = failure(run, Model(said("twe", finish_reason="length")))
    assert error.message == "the answer was cut before its end"


@pytest.mark.parametrize(
    "text", ["I would say red, since", "Sure! The colour", "**blue-ish", "re d", "green, no"]
)
def test_a_cut_answer_that_begins_like_no_choice_is_refused_and_asked_for_again(
    run: Run, text: str
) -> None:
    """More tokens would not have made it one of them, so it is not called cut."""
    colours = OutputSpec.from_arguments(choice=["red", "blue", "green"])
    colours = OutputSpec.from_arguments(choice=["red", "blue", "green"])
    cut = said(text, finish_reason="length")
    assert answer(run, Model(cut, said("red")), colours).parsed == "red"
    error = failure(run, Model(cut, cut, cut), colours)
    assert error.message.startswith("the answer does not pass: the answer has to be one of 'red'")
    assert "max_tokens" not in error.hint
    assert error.finish_reason == "length"


@pytest.mark.parametrize("text", ["", "g", '"gre', "**Gre", " blu", "`"])
def test_a_cut_answer_that_may_become_a_choice_is_cut(run: Run, text: str) -> None:
    colours = OutputSpec.from_arguments(choice=["red", "blue", "green"])
    error = failure(run, Model(said(text, finish_reason="length")), colours)
    assert error.message == "the answer was cut before its end"
    assert "max_tokens" in error.hint


def test_a_withheld_answer_is_not_asked_for_again_though_it_begins_like_no_choice(
    run: Run,
) -> None:
    model = Model(said("I will not", finish_reason="content_filter"))
    error = failure(run, model, OutputSpec.from_arguments(choice=["red", "blue"]))
    assert error.message == "the answer was withheld by a content filter"


def test_an_answer_that_was_withheld_says_so(run: Run) -> None:
    error = failure(run, Model(said("", finish_reason="content_filter")))
    assert error.message == "the answer was withheld by a content filter"


def test_an_answer_without_text_is_asked_for_without_an_empty_turn(run: Run) -> None:
    """The service refuses an empty turn."""
    model = Model(said(""), said("12"))
    answer(run, model)
    turns, _ = model.asked[1]
    assert [each.role for each in turns] == ["system", "user", "user"]


def test_a_nul_that_the_model_said_is_not_sent_back(run: Run) -> None:
    """It would end the prompt there."""
    model = Model(said("1\0x"), said("12"))
    answer(run, model)
    turns, _ = model.asked[1]
    assert not any("\0" in each.content for each in turns)


def test_an_answer_that_calls_a_tool_is_none_yet(run: Run) -> None:
    call = ToolCall("call_1", FunctionCall("clock", "{}"))
    completion = answer(run, Model(said("", tool_calls=(call,), finish_reason="tool_calls")))
    assert (completion.parsed, completion.repairs) == (None, 0)


def test_without_room_to_ask_again_the_first_answer_is_told_about(run: Run) -> None:
    error = failure(run, Model(said("twelve"), ContextOverflow("too long")))
    assert error.message == "there is no room in the context to ask again"
    assert error.partial == "twelve"


def test_without_room_to_ask_at_all_that_is_the_error(run: Run) -> None:
    with pytest.raises(ContextOverflow):
        answer(run, Model(ContextOverflow("too long")))


def test_a_service_that_fails_fails_the_call(run: Run) -> None:
    with pytest.raises(ServerError):
        answer(run, Model(said("twelve"), ServerError("broken")))


def test_where_the_engine_loses_its_own_grammar_the_prompt_asks_for_it(run: Run) -> None:
    model = Model(GrammarError(STUMBLED), said("日本"))
    expectation = OutputSpec.from_arguments(choice=["日本", "中国"])
    assert answer(run, model, expectation).parsed == "日本"
    (_, first), (turns, second) = model.asked
    assert (first, second) == (ChoiceConstraint(("日本", "中国")), None)
    assert turns[0].role == "system"
    assert turns[0].content.startswith("Be brief.\n\nAnswer with one of these")


@pytest.mark.parametrize("message", [STUMBLED, "Error creating grammar: unknown name"])
def test_a_grammar_of_the_callers_is_not_given_up(run: Run, message: str) -> None:
    with pytest.raises(GrammarError):
        answer(run, Model(GrammarError(message)), OutputSpec.from_arguments(grammar="start: A"))


def test_a_schema_that_the_engine_refuses_is_the_callers_to_mend(run: Run) -> None:
    with pytest.raises(GrammarError):
        answer(
            run,
            Model(GrammarError("Error creating grammar: Unsatisfiable")),
            OutputSpec.from_arguments(response_model=int),
        )


async def test_a_refusal_is_told_and_not_asked_again() -> None:
    model = Model(said("", refusal="I may not."), said("5"))
    with pytest.raises(StructuredOutputError, match="refuses to answer: I may not"):
        await complete_with_repairs(model.ask, ASKED, NUMBER, max_repairs=2)
    assert len(model.asked) == 1


async def test_validation_ends_with_the_deadline_of_the_call() -> None:
    text = f'"{"a" * 40}!"'

    async def ask(*_: Any) -> Completion[None]:
        return said(text)

    expectation = OutputSpec.from_arguments(response_model={"pattern": "^(a+)+$"})
    with pytest.raises(DeadlineExceeded, match="validating the answer") as caught:
        await complete_with_repairs(
            ask, (), expectation, max_repairs=0, deadline=Deadline.after(0.05)
        )
    assert caught.value.partial == text
