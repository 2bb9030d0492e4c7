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
from foundry_api.structured.refusal import IncompleteOutput, UserCodeFailed, ValidationFailed
from foundry_api.types.errors import ContextOverflow, GrammarError, StructuredOutputError
from foundry_api.types.messages import ChoiceConstraint, JsonSchemaConstraint, Message, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from foundry_api.resilience.deadline import Deadline
    from foundry_api.structured.expectation import OutputSpec
    from foundry_api.types.messages import Completion, Constraint, FinishReason, Timings

__all__ = [
    "add_instructions",
    "complete_with_repairs",
    "get_failure_cause",
    "get_failure_hint",
    "get_failure_message",
    "repair_messages",
    "validate_answer",
]


def add_instructions(
    messages: tuple[Message, ...], constraint: JsonSchemaConstraint | ChoiceConstraint
) -> tuple[Message, ...]:
    """The conversation with what its answer has to look like, in its system turn.

    The same words for the same constraint: an engine that keeps the beginnings of prompts can
    reuse them.
    """
    instructions = _describe_constraint(constraint)
    if messages and messages[0].role == "system":
        system = msgspec.structs.replace(
            messages[0], content=f"{messages[0].content}\n\n{instructions}"
        )
        return (system, *messages[1:])
    return (Message("system", instructions), *messages)


def repair_messages(answer: str, errors: Iterable[str]) -> tuple[Message, ...]:
    """The turns that follow an answer that did not pass."""
    problems = "\n".join(f"- {error}" for error in errors)
    request = (
        f"This answer was refused:\n{problems}\nGive the whole corrected answer, nothing else."
    )
    content = answer.replace("\0", "")  # which a prompt cannot hold
    answer_messages = [Message("assistant", content)] if content.strip() else []
    return (*answer_messages, Message("user", request.replace("\0", "")))


def _describe_constraint(constraint: JsonSchemaConstraint | ChoiceConstraint) -> str:
    if isinstance(constraint, ChoiceConstraint):
        return f"Answer with one of these, and nothing else:\n{_format_list(constraint.choices)}"
    return (
        "Answer with JSON and nothing else: no explanation, no code fence. "
        "It has to be valid against this JSON schema:\n"
        f"{json.dumps(constraint.schema, ensure_ascii=False)}"
    )


def _format_list(choices: Sequence[str]) -> str:
    return "\n".join(f"- {choice}" for choice in choices)


if TYPE_CHECKING:
    AskModel = Callable[[tuple[Message, ...], Constraint | None, int], Awaitable[Completion[None]]]
    """Takes the turns, what the answer is kept to, and how often the model has repeated itself."""


_TRUNCATED = "the answer was cut before its end"
_FILTERED = "the answer was withheld by a content filter"
_USER_CODE_HINT = (
    "The answer is in .partial. See the exception that this was raised from, and correct the code; "
    "to refuse an answer, raise ValueError."
)
_ENGINE_FAILED = "committing tokens"
"""In the engine's words when it lost its own grammar: at a character that it has to write and that
its tokenizer holds as several tokens (probed on 2.2.1)."""


async def complete_with_repairs(
    ask: AskModel,
    messages: tuple[Message, ...],
    spec: OutputSpec,
    *,
    max_repairs: int,
    deadline: Deadline = NEVER,
) -> Completion[Any]:
    """The first answer that passes.

    Args:
        ask: Asks the model, and keeps its answer to a constraint.
        messages: The conversation as the caller gave it.
        spec: What the answer has to be.
        max_repairs: How often the model may be asked again.
        deadline: By when an answer has to be validated.

    Raises:
        StructuredOutputError: No answer passes, or one was cut.
        DeadlineExceeded: It passed while an answer was validated, which is in `.partial`.
        FoundryError: The model could not be asked.
    """
    rejected: list[Completion[None]] = []
    turns = messages
    while True:
        try:
            completion = await _attempt(ask, turns, spec.constraint, _count_repetitions(rejected))
        except ContextOverflow as error:
            if not rejected:
                raise
            message = "there is no room in the context to ask again"
            raise _make_error(rejected, message) from error
        try:
            parsed = await _parse_within_deadline(completion, spec, deadline)
        except ValidationFailed as error:
            rejected.append(completion)
            is_final = isinstance(error, UserCodeFailed | IncompleteOutput)
            if is_final or len(rejected) > max_repairs:
                message = get_failure_message(error)
                raise _make_error(rejected, message, error) from get_failure_cause(error)
            turns = messages
            if not _is_repeated(rejected):
                turns = (*messages, *repair_messages(completion.content, error.errors))
        else:
            return _merge_attempts(completion, rejected, parsed)


async def validate_answer(text: str, finish_reason: FinishReason | None, spec: OutputSpec) -> Any:
    """Return what an answer is.

    Raises:
        IncompleteOutput: It was cut or withheld, so that no more than a part of it is there.
        ValidationFailed: It does not pass.
    """
    if finish_reason == "stop":
        return await spec.validate_async(text)
    reason = _FILTERED if finish_reason == "content_filter" else _TRUNCATED
    if finish_reason == "length" and spec.rules_out(text):
        return await spec.validate_async(text)  # more tokens would not have made it pass
    if not spec.may_be_truncated(text):
        raise IncompleteOutput(reason)
    try:
        return await spec.validate_async(text)
    except UserCodeFailed:
        raise
    except ValidationFailed as error:
        raise IncompleteOutput(reason, *error.errors) from error


def get_failure_message(error: ValidationFailed) -> str:
    """Say why an answer is refused."""
    if isinstance(error, UserCodeFailed):
        return str(error)
    if isinstance(error, IncompleteOutput):
        return error.reason
    return f"the answer does not pass: {'; '.join(error.errors)}"


async def _attempt(
    ask: AskModel, turns: tuple[Message, ...], constraint: Constraint | None, repetitions: int
) -> Completion[None]:
    try:
        return await ask(turns, constraint, repetitions)
    except GrammarError as error:
        if _ENGINE_FAILED not in error.message or not isinstance(
            constraint, JsonSchemaConstraint | ChoiceConstraint
        ):
            raise
    return await ask(add_instructions(turns, constraint), None, repetitions)


def _is_repeated(rejected: Sequence[Completion[None]]) -> bool:
    """Whether the last answer is one that was refused before."""
    return rejected[-1].content in {completion.content for completion in rejected[:-1]}


def _count_repetitions(rejected: Sequence[Completion[None]]) -> int:
    """How many of the answers are no other than one before."""
    return len(rejected) - len({completion.content for completion in rejected})


async def _parse_within_deadline(
    completion: Completion[None], spec: OutputSpec, deadline: Deadline
) -> Any:
    scope = asyncio.timeout_at(None if math.isinf(deadline.at) else deadline.at)
    try:
        async with scope:
            return await _parse(completion, spec)
    except TimeoutError as error:
        if not scope.expired():
            raise
        exceeded = deadline.exceeded("validating the answer")
        exceeded.partial = completion.content
        raise exceeded from error


async def _parse(completion: Completion[None], spec: OutputSpec) -> Any:
    if completion.tool_calls:  # the answer comes when they have been made
        return None
    if completion.refusal and not completion.content.strip():
        raise IncompleteOutput(f"the model refuses to answer: {completion.refusal}")
    return await validate_answer(completion.content, completion.finish_reason, spec)


def get_failure_hint(error: ValidationFailed) -> str:
    """Say what to do about a refused answer: more tokens help only one that was cut."""
    if isinstance(error, UserCodeFailed):
        return _USER_CODE_HINT
    if isinstance(error, IncompleteOutput) and error.reason == _TRUNCATED:
        return StructuredOutputError.cut_hint
    return StructuredOutputError.default_hint


def get_failure_cause(error: ValidationFailed) -> BaseException:
    """Return what the caller's error is raised from."""
    return error.failure if isinstance(error, UserCodeFailed) else error


def _make_error(
    rejected: Sequence[Completion[None]], message: str, error: ValidationFailed | None = None
) -> StructuredOutputError:
    last = rejected[-1]
    return StructuredOutputError(
        message,
        errors=error.errors if error else (),
        repairs=len(rejected) - 1,
        finish_reason=last.finish_reason,
        hint=get_failure_hint(error) if error else None,
        model=last.model,
        service=last.service,
        attempts=sum(len(completion.attempts) for completion in rejected),
        partial=last.content,
    )


def _merge_attempts(
    last: Completion[None], rejected: Sequence[Completion[None]], parsed: Any
) -> Completion[Any]:
    """The answer that passes, with what all of them took."""
    answers = (*rejected, last)
    return msgspec.structs.replace(
        last,
        parsed=parsed,
        repairs=len(rejected),
        usage=_sum_usage([completion.usage for completion in answers]),
        timings=_sum_timings([completion.timings for completion in answers]),
        attempts=tuple(attempt for completion in answers for attempt in completion.attempts),
    )


def _sum_usage(usages: Sequence[Usage]) -> Usage:
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        total_tokens=sum(usage.total_tokens for usage in usages),
    )


def _sum_timings(timings: Sequence[Timings]) -> Timings:
    return msgspec.structs.replace(
        timings[-1],
        total_s=sum(item.total_s for item in timings),
        queued_s=sum(item.queued_s for item in timings),
    )
