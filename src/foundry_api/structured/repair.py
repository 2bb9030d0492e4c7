"""Request an answer again until it is valid, at most `max_repairs` times.

A truncated answer is not requested again: it would be truncated at the same place.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.resilience.deadline import NEVER
from foundry_api.structured.errors import IncompleteOutput, UserCodeFailed, ValidationFailed
from foundry_api.types.errors import ContextOverflow, GrammarError, StructuredOutputError
from foundry_api.types.messages import ChoiceConstraint, JsonSchemaConstraint, Message, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from foundry_api.resilience.deadline import Deadline
    from foundry_api.structured.output_spec import OutputSpec
    from foundry_api.types.messages import Completion, Constraint

    # Takes the conversation, the constraint of the answer, and how many answers the model has
    # repeated so far.
    RequestCompletion = Callable[
        [tuple[Message, ...], Constraint | None, int], Awaitable[Completion[None]]
    ]

__all__ = ["add_instructions", "complete_with_repairs"]

# The engine's message when it loses its own grammar: at a character that the grammar requires and
# that the tokenizer splits into several tokens (probed on 2.2.1).
_ENGINE_FAILED = "committing tokens"


async def complete_with_repairs(
    request_completion: RequestCompletion,
    messages: tuple[Message, ...],
    spec: OutputSpec,
    *,
    max_repairs: int,
    deadline: Deadline = NEVER,
) -> Completion[Any]:
    """Return the first valid answer, with the usage, times and attempts of all answers.

    Raises StructuredOutputError without a valid answer, and DeadlineExceeded, with the answer in
    `partial`, if the deadline passes during validation.
    """
    rejected: list[Completion[None]] = []
    turns = messages
    while True:
        rejected_texts = {completion.content for completion in rejected}
        repetitions = len(rejected) - len(rejected_texts)
        try:
            completion = await _request_constrained(
                request_completion, turns, spec.constraint, repetitions
            )
        except ContextOverflow as error:
            if not rejected:
                raise
            message = "the context has no room for a repair request"
            raise _make_error(rejected, message) from error
        try:
            parsed = await _parse_within_deadline(completion, spec, deadline)
        except ValidationFailed as error:
            rejected.append(completion)
            is_final = isinstance(error, UserCodeFailed | IncompleteOutput)
            if is_final or len(rejected) > max_repairs:
                raise _make_error(rejected, error.message, error) from error.cause
            # Only the last answer is sent back, or the conversation would outgrow the context. A
            # model that sees an answer it has already repeated would repeat it again: it gets the
            # plain conversation, and is sampled with another seed.
            turns = messages
            if completion.content not in rejected_texts:
                turns = (*messages, *_make_repair_messages(completion.content, error.errors))
        else:
            return _merge_attempts(completion, rejected, parsed)


async def _request_constrained(
    request_completion: RequestCompletion,
    turns: tuple[Message, ...],
    constraint: Constraint | None,
    repetitions: int,
) -> Completion[None]:
    try:
        return await request_completion(turns, constraint, repetitions)
    except GrammarError as error:
        if _ENGINE_FAILED not in error.message or not isinstance(
            constraint, JsonSchemaConstraint | ChoiceConstraint
        ):
            raise
    # Outside the `except`, so that a failure is not chained to the error of the engine.
    return await request_completion(add_instructions(turns, constraint), None, repetitions)


async def _parse_within_deadline(
    completion: Completion[None], spec: OutputSpec, deadline: Deadline
) -> Any:
    if completion.tool_calls:
        return None  # the answer follows when the tools have been called
    text = completion.content
    if completion.refusal and not text.strip():
        raise IncompleteOutput(f"the model refuses to answer: {completion.refusal}")
    scope = asyncio.timeout_at(None if math.isinf(deadline.at) else deadline.at)
    try:
        async with scope:
            return await spec.validate_answer(text, completion.finish_reason)
    except TimeoutError as error:
        if not scope.expired():
            raise
        exceeded = deadline.make_error("validating the answer")
        exceeded.partial = text
        raise exceeded from error


def add_instructions(
    messages: tuple[Message, ...], constraint: JsonSchemaConstraint | ChoiceConstraint
) -> tuple[Message, ...]:
    """Describe the constraint in the system turn of a conversation."""
    # The same text for the same constraint, so that an engine that caches the beginnings of
    # prompts can reuse it.
    if isinstance(constraint, ChoiceConstraint):
        choices = "\n".join(f"- {choice}" for choice in constraint.choices)
        instructions = f"Answer with one of these, and nothing else:\n{choices}"
    else:
        instructions = (
            "Answer with JSON and nothing else: no explanation, no code fence. "
            "It has to be valid against this JSON schema:\n"
            f"{json.dumps(constraint.schema, ensure_ascii=False)}"
        )
    if messages and messages[0].role == "system":
        system = msgspec.structs.replace(
            messages[0], content=f"{messages[0].content}\n\n{instructions}"
        )
        return (system, *messages[1:])
    return (Message("system", instructions), *messages)


def _make_repair_messages(answer: str, errors: Iterable[str]) -> tuple[Message, ...]:
    """Return the turns that follow an invalid answer."""
    problems = "\n".join(f"- {error}" for error in errors)
    request = (
        f"This answer was refused:\n{problems}\nGive the whole corrected answer, nothing else."
    )
    content = answer.replace("\0", "")  # NUL would end the prompt
    # The service rejects an empty turn.
    answer_messages = [Message("assistant", content)] if content.strip() else []
    return (*answer_messages, Message("user", request.replace("\0", "")))


def _make_error(
    rejected: Sequence[Completion[None]], message: str, error: ValidationFailed | None = None
) -> StructuredOutputError:
    last = rejected[-1]
    return StructuredOutputError(
        message,
        errors=error.errors if error else (),
        repairs=len(rejected) - 1,
        finish_reason=last.finish_reason,
        prompt_tokens=sum(completion.usage.prompt_tokens for completion in rejected),
        completion_tokens=sum(completion.usage.completion_tokens for completion in rejected),
        hint=error.hint if error else None,
        model=last.model,
        service=last.service,
        attempts=sum(len(completion.attempts) for completion in rejected),
        partial=last.content,
    )


def _merge_attempts(
    last: Completion[None], rejected: Sequence[Completion[None]], parsed: Any
) -> Completion[Any]:
    """Return the valid answer, with the usage, times and attempts of all answers."""
    answers = (*rejected, last)
    return msgspec.structs.replace(
        last,
        parsed=parsed,
        repairs=len(rejected),
        usage=Usage(
            prompt_tokens=sum(answer.usage.prompt_tokens for answer in answers),
            completion_tokens=sum(answer.usage.completion_tokens for answer in answers),
            total_tokens=sum(answer.usage.total_tokens for answer in answers),
        ),
        timings=msgspec.structs.replace(
            last.timings,
            total_s=sum(answer.timings.total_s for answer in answers),
            queued_s=sum(answer.timings.queued_s for answer in answers),
        ),
        attempts=tuple(attempt for answer in answers for attempt in answer.attempts),
    )
