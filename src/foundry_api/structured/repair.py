"""Asking until an answer passes: once more with what was wrong with it, a bounded number of times.

An answer that was cut is not asked for again: it would be cut at the same place. A model that
repeats itself is asked afresh and made to sample, with seeds that are the same in every run: the
sight of its answer makes it say that again.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.resilience.deadline import NEVER
from foundry_api.structured.refusal import CodeFailed, Incomplete, Refused
from foundry_api.types.errors import ContextOverflow, GrammarError, StructuredOutputError
from foundry_api.types.messages import Choice, JsonSchema, Message, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from foundry_api.resilience.deadline import Deadline
    from foundry_api.structured.expectation import Expectation
    from foundry_api.types.messages import Completion, Constraint, FinishReason, Timings

__all__ = [
    "answered",
    "asking_again",
    "checked",
    "instructed",
    "refusal_cause",
    "refusal_hint",
    "refusal_message",
]


def instructed(
    messages: tuple[Message, ...], constraint: JsonSchema | Choice
) -> tuple[Message, ...]:
    """The conversation with what its answer has to look like, in its system turn.

    The same words for the same constraint: an engine that keeps the beginnings of prompts can
    reuse them.
    """
    words = _words(constraint)
    if messages and messages[0].role == "system":
        system = msgspec.structs.replace(messages[0], content=f"{messages[0].content}\n\n{words}")
        return (system, *messages[1:])
    return (Message("system", words), *messages)


def asking_again(answer: str, errors: Iterable[str]) -> tuple[Message, ...]:
    """The turns that follow an answer that did not pass."""
    wrong = "\n".join(f"- {error}" for error in errors)
    request = f"This answer was refused:\n{wrong}\nGive the whole corrected answer, nothing else."
    said = answer.replace("\0", "")  # which a prompt cannot hold
    refused = [Message("assistant", said)] if said.strip() else []
    return (*refused, Message("user", request.replace("\0", "")))


def _words(constraint: JsonSchema | Choice) -> str:
    if isinstance(constraint, Choice):
        return f"Answer with one of these, and nothing else:\n{_listed(constraint.choices)}"
    return (
        "Answer with JSON and nothing else: no explanation, no code fence. "
        "It has to be valid against this JSON schema:\n"
        f"{json.dumps(constraint.schema, ensure_ascii=False)}"
    )


def _listed(choices: Sequence[str]) -> str:
    return "\n".join(f"- {choice}" for choice in choices)


if TYPE_CHECKING:
    Ask = Callable[[tuple[Message, ...], Constraint | None, int], Awaitable[Completion[None]]]
    """Takes the turns, what the answer is kept to, and how often the model has repeated itself."""


_CUT = "the answer was cut before its end"
_WITHHELD = "the answer was withheld by a content filter"
_CODE_HINT = (
    "The answer is in .partial. See the exception that this was raised from, and correct the code; "
    "to refuse an answer, raise ValueError."
)
_STUMBLED = "committing tokens"
"""In the engine's words when it lost its own grammar: at a character that it has to write and that
its tokenizer holds as several tokens (probed on 2.2.1)."""


async def answered(
    ask: Ask,
    messages: tuple[Message, ...],
    expectation: Expectation,
    *,
    repairs: int,
    deadline: Deadline = NEVER,
) -> Completion[Any]:
    """The first answer that passes.

    Args:
        ask: Asks the model, and keeps its answer to a constraint.
        messages: The conversation as the caller gave it.
        expectation: What the answer has to be.
        repairs: How often the model may be asked again.
        deadline: By when an answer has to be validated.

    Raises:
        StructuredOutputError: No answer passes, or one was cut.
        DeadlineExceeded: It passed while an answer was validated, which is in `.partial`.
        FoundryError: The model could not be asked.
    """
    refused: list[Completion[None]] = []
    turns = messages
    while True:
        try:
            completion = await _asked(ask, turns, expectation.constraint, _repetitions(refused))
        except ContextOverflow as error:
            if not refused:
                raise
            message = "there is no room in the context to ask again"
            raise _failure(refused, message) from error
        try:
            parsed = await _parsed_in_time(completion, expectation, deadline)
        except Refused as error:
            refused.append(completion)
            is_final = isinstance(error, CodeFailed | Incomplete)
            if is_final or len(refused) > repairs:
                message = refusal_message(error)
                raise _failure(refused, message, error) from refusal_cause(error)
            turns = messages
            if not _repeats(refused):
                turns = (*messages, *asking_again(completion.content, error.errors))
        else:
            return _merged(completion, refused, parsed)


async def checked(text: str, finish_reason: FinishReason | None, expectation: Expectation) -> Any:
    """Return what an answer is.

    Raises:
        Incomplete: It was cut or withheld, so that no more than a part of it is there.
        Refused: It does not pass.
    """
    if finish_reason == "stop":
        return await expectation.check_apart(text)
    reason = _WITHHELD if finish_reason == "content_filter" else _CUT
    if finish_reason == "length" and expectation.rules_out(text):
        return await expectation.check_apart(text)  # more tokens would not have made it pass
    if not expectation.may_be_cut(text):
        raise Incomplete(reason)
    try:
        return await expectation.check_apart(text)
    except CodeFailed:
        raise
    except Refused as error:
        raise Incomplete(reason, *error.errors) from error


def refusal_message(error: Refused) -> str:
    """Say why an answer is refused."""
    if isinstance(error, CodeFailed):
        return str(error)
    if isinstance(error, Incomplete):
        return error.reason
    return f"the answer does not pass: {'; '.join(error.errors)}"


async def _asked(
    ask: Ask, turns: tuple[Message, ...], constraint: Constraint | None, repetitions: int
) -> Completion[None]:
    try:
        return await ask(turns, constraint, repetitions)
    except GrammarError as error:
        if _STUMBLED not in error.message or not isinstance(constraint, JsonSchema | Choice):
            raise
    return await ask(instructed(turns, constraint), None, repetitions)


def _repeats(refused: Sequence[Completion[None]]) -> bool:
    """Whether the last answer is one that was refused before."""
    return refused[-1].content in {each.content for each in refused[:-1]}


def _repetitions(refused: Sequence[Completion[None]]) -> int:
    """How many of the answers are no other than one before."""
    return len(refused) - len({each.content for each in refused})


async def _parsed_in_time(
    completion: Completion[None], expectation: Expectation, deadline: Deadline
) -> Any:
    scope = asyncio.timeout_at(None if math.isinf(deadline.at) else deadline.at)
    try:
        async with scope:
            return await _parsed(completion, expectation)
    except TimeoutError as error:
        if not scope.expired():
            raise
        exceeded = deadline.exceeded("validating the answer")
        exceeded.partial = completion.content
        raise exceeded from error


async def _parsed(completion: Completion[None], expectation: Expectation) -> Any:
    if completion.tool_calls:  # the answer comes when they have been made
        return None
    if completion.refusal and not completion.content.strip():
        raise Incomplete(f"the model refuses to answer: {completion.refusal}")
    return await checked(completion.content, completion.finish_reason, expectation)


def refusal_hint(error: Refused) -> str:
    """Say what to do about a refused answer: more tokens help only one that was cut."""
    if isinstance(error, CodeFailed):
        return _CODE_HINT
    if isinstance(error, Incomplete) and error.reason == _CUT:
        return StructuredOutputError.cut_hint
    return StructuredOutputError.default_hint


def refusal_cause(error: Refused) -> BaseException:
    """Return what the caller's error is raised from."""
    return error.failure if isinstance(error, CodeFailed) else error


def _failure(
    refused: Sequence[Completion[None]], message: str, error: Refused | None = None
) -> StructuredOutputError:
    last = refused[-1]
    return StructuredOutputError(
        message,
        errors=error.errors if error else (),
        repairs=len(refused) - 1,
        finish_reason=last.finish_reason,
        hint=refusal_hint(error) if error else None,
        model=last.model,
        service=last.service,
        attempts=sum(len(each.attempts) for each in refused),
        partial=last.content,
    )


def _merged(
    last: Completion[None], refused: Sequence[Completion[None]], parsed: Any
) -> Completion[Any]:
    """The answer that passes, with what all of them took."""
    answers = (*refused, last)
    return msgspec.structs.replace(
        last,
        parsed=parsed,
        repairs=len(refused),
        usage=_total([each.usage for each in answers]),
        timings=_summed([each.timings for each in answers]),
        attempts=tuple(attempt for each in answers for attempt in each.attempts),
    )


def _total(usages: Sequence[Usage]) -> Usage:
    return Usage(
        prompt_tokens=sum(each.prompt_tokens for each in usages),
        completion_tokens=sum(each.completion_tokens for each in usages),
        total_tokens=sum(each.total_tokens for each in usages),
    )


def _summed(timings: Sequence[Timings]) -> Timings:
    return msgspec.structs.replace(
        timings[-1],
        total_s=sum(each.total_s for each in timings),
        queued_s=sum(each.queued_s for each in timings),
    )
