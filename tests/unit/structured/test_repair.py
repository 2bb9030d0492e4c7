"""Repair requests: their text, their number, and the usage of all answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from foundry_api.resilience.deadline import Deadline
from foundry_api.structured.output_spec import OutputSpec
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
    from support.virtual_time import Run

MESSAGES = (Message("system", "Be brief."), Message("user", "How many?"))
NUMBER = OutputSpec.from_arguments(parser=int)
STUMBLED = "token generation failed: Error committing tokens: Parser Error: token"


def make_answer(content: str, **members: Any) -> Completion[None]:
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
    """Returns the answers in turn, and records the requests."""

    def __init__(self, *answers: Completion[None] | FoundryError) -> None:
        self._answers = list(answers)
        self.requests: list[tuple[tuple[Message, ...], Constraint | None]] = []
        self.repetitions: list[int] = []

    async def ask(
        self, turns: tuple[Message, ...], constraint: Constraint | None, repetitions: int
    ) -> Completion[None]:
        self.requests.append((turns, constraint))
        self.repetitions.append(repetitions)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(run: Run, model: Model, spec: OutputSpec = NUMBER, repairs: int = 2) -> Completion[Any]:
    return run(complete_with_repairs(model.ask, MESSAGES, spec, max_repairs=repairs))


def failure(
    run: Run, model: Model, spec: OutputSpec = NUMBER, repairs: int = 2
) -> StructuredOutputError:
    with pytest.raises(StructuredOutputError) as caught:
        answer(run, model, spec, repairs)
    return caught.value


def test_valid_answer_is_not_repaired(run: Run) -> None:
    model = Model(make_answer("12"))
    completion = answer(run, model)
    assert (completion.parsed, completion.repairs) == (12, 0)
    assert model.requests == [(MESSAGES, None)]
    assert completion == make_answer("12", parsed=12)


def test_repair_request_has_the_errors(run: Run) -> None:
    model = Model(make_answer("twelve"), make_answer("12"))
    assert (completion := answer(run, model)).parsed == 12
    assert completion.repairs == 1
    turns, _ = model.requests[1]
    assert turns[:3] == (*MESSAGES, Message("assistant", "twelve"))
    assert turns[3].role == "user"
    assert "- the answer cannot be parsed: invalid literal for int()" in turns[3].content


def test_repeated_answer_is_not_sent_back(run: Run) -> None:
    model = Model(*map(make_answer, ("a", "a", "b", "a", "12")))
    answer(run, model, repairs=4)
    assert model.repetitions == [0, 0, 1, 1, 2]
    assert [turns == MESSAGES for turns, _ in model.requests] == [True, False, True, False, True]


def test_usage_and_times_of_all_answers_are_added_up(run: Run) -> None:
    completion = answer(run, Model(make_answer("a"), make_answer("b"), make_answer("12")))
    assert completion.usage == Usage(30, 15, 45)
    assert completion.timings == Timings(0.1, 3.0, 50.0, 0.75)
    assert len(completion.attempts) == 3


def test_conversation_does_not_grow_with_every_repair(run: Run) -> None:
    """A growing prompt would exceed the context at some point."""
    model = Model(make_answer("a"), make_answer("b"), make_answer("12"))
    answer(run, model)
    turns, _ = model.requests[2]
    assert [turn.content for turn in turns[:-1]] == ["Be brief.", "How many?", "b"]


@pytest.mark.parametrize("repairs", [0, 1, 3])
def test_error_after_the_last_repair(run: Run, repairs: int) -> None:
    model = Model(*(make_answer(f"no {index}") for index in range(repairs + 1)))
    error = failure(run, model, repairs=repairs)
    assert len(model.requests) == repairs + 1
    assert (error.repairs, error.attempts) == (repairs, repairs + 1)
    assert error.partial == f"no {repairs}"
    assert (error.model, error.service) == ("tiny:1", "http://service")
    assert error.errors == (
        f"the answer cannot be parsed: invalid literal for int() with base 10: 'no {repairs}'",
    )
    assert "larger model" in error.hint


def test_truncated_answer_is_not_repaired(run: Run) -> None:
    """Even if the text so far is valid."""
    model = Model(make_answer("12", finish_reason="length"))
    error = failure(run, model, OutputSpec.from_arguments(response_model=int))
    assert error.message == "the answer was cut before its end"
    assert "max_tokens" in error.hint
    assert (error.finish_reason, error.repairs, error.partial) == ("length", 0, "12")


def test_parser_may_accept_a_truncated_answer(run: Run) -> None:
    assert answer(run, Model(make_answer("12", finish_reason="length"))).parsed == 12
    error = failure(run, Model(make_answer("twe", finish_reason="length")))
    assert error.message == "the answer was cut before its end"


@pytest.mark.parametrize(
    "text", ["I would say red, since", "Sure! The colour", "**blue-ish", "re d", "green, no"]
)
def test_truncated_answer_that_begins_like_no_choice_is_repaired(run: Run, text: str) -> None:
    """More tokens would not have made it a choice, so the error does not suggest them."""
    colours = OutputSpec.from_arguments(choice=["red", "blue", "green"])
    colours = OutputSpec.from_arguments(choice=["red", "blue", "green"])
    cut = make_answer(text, finish_reason="length")
    assert answer(run, Model(cut, make_answer("red")), colours).parsed == "red"
    error = failure(run, Model(cut, cut, cut), colours)
    assert error.message.startswith("the answer is invalid: the answer has to be one of 'red'")
    assert "max_tokens" not in error.hint
    assert error.finish_reason == "length"


@pytest.mark.parametrize("text", ["", "g", '"gre', "**Gre", " blu", "`"])
def test_truncated_answer_that_begins_like_a_choice_is_not_repaired(run: Run, text: str) -> None:
    colours = OutputSpec.from_arguments(choice=["red", "blue", "green"])
    error = failure(run, Model(make_answer(text, finish_reason="length")), colours)
    assert error.message == "the answer was cut before its end"
    assert "max_tokens" in error.hint


def test_filtered_answer_is_not_repaired(
    run: Run,
) -> None:
    model = Model(make_answer("I will not", finish_reason="content_filter"))
    error = failure(run, model, OutputSpec.from_arguments(choice=["red", "blue"]))
    assert error.message == "the answer was withheld by a content filter"


def test_error_of_a_filtered_answer(run: Run) -> None:
    error = failure(run, Model(make_answer("", finish_reason="content_filter")))
    assert error.message == "the answer was withheld by a content filter"


def test_empty_answer_is_not_sent_back(run: Run) -> None:
    """The service rejects an empty turn."""
    model = Model(make_answer(""), make_answer("12"))
    answer(run, model)
    turns, _ = model.requests[1]
    assert [turn.role for turn in turns] == ["system", "user", "user"]


def test_nul_is_not_sent_back(run: Run) -> None:
    """It would end the prompt there."""
    model = Model(make_answer("1\0x"), make_answer("12"))
    answer(run, model)
    turns, _ = model.requests[1]
    assert not any("\0" in turn.content for turn in turns)


def test_answer_with_tool_calls_is_not_validated(run: Run) -> None:
    call = ToolCall("call_1", FunctionCall("clock", "{}"))
    completion = answer(run, Model(make_answer("", tool_calls=(call,), finish_reason="tool_calls")))
    assert (completion.parsed, completion.repairs) == (None, 0)


def test_context_overflow_of_a_repair(run: Run) -> None:
    error = failure(run, Model(make_answer("twelve"), ContextOverflow("too long")))
    assert error.message == "the context has no room for a repair request"
    assert error.partial == "twelve"


def test_context_overflow_of_the_first_request(run: Run) -> None:
    with pytest.raises(ContextOverflow):
        answer(run, Model(ContextOverflow("too long")))


def test_server_error_ends_the_repairs(run: Run) -> None:
    with pytest.raises(ServerError):
        answer(run, Model(make_answer("twelve"), ServerError("broken")))


def test_prompt_replaces_a_grammar_that_the_engine_loses(run: Run) -> None:
    model = Model(GrammarError(STUMBLED), make_answer("日本"))
    spec = OutputSpec.from_arguments(choice=["日本", "中国"])
    assert answer(run, model, spec).parsed == "日本"
    (_, first), (turns, second) = model.requests
    assert (first, second) == (ChoiceConstraint(("日本", "中国")), None)
    assert turns[0].role == "system"
    assert turns[0].content.startswith("Be brief.\n\nAnswer with one of these")


@pytest.mark.parametrize("message", [STUMBLED, "Error creating grammar: unknown name"])
def test_grammar_of_the_caller_is_not_replaced(run: Run, message: str) -> None:
    with pytest.raises(GrammarError):
        answer(run, Model(GrammarError(message)), OutputSpec.from_arguments(grammar="start: A"))


def test_schema_that_the_engine_rejects_is_not_replaced(run: Run) -> None:
    with pytest.raises(GrammarError):
        answer(
            run,
            Model(GrammarError("Error creating grammar: Unsatisfiable")),
            OutputSpec.from_arguments(response_model=int),
        )


async def test_refusal_is_not_repaired() -> None:
    model = Model(make_answer("", refusal="I may not."), make_answer("5"))
    with pytest.raises(StructuredOutputError, match="refuses to answer: I may not"):
        await complete_with_repairs(model.ask, MESSAGES, NUMBER, max_repairs=2)
    assert len(model.requests) == 1


async def test_validation_ends_at_the_deadline() -> None:
    text = f'"{"a" * 40}!"'

    async def ask(*_: Any) -> Completion[None]:
        return make_answer(text)

    spec = OutputSpec.from_arguments(response_model={"pattern": "^(a+)+$"})
    with pytest.raises(DeadlineExceeded, match="validating the answer") as caught:
        await complete_with_repairs(ask, (), spec, max_repairs=0, deadline=Deadline.after(0.05))
    assert caught.value.partial == text
