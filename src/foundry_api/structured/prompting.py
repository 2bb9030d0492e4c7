"""What an answer has to look like, in words, for generations that don't keep it to that."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

from foundry_api.messages import Choice, JsonSchema, Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["asking_again", "instructed"]


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
