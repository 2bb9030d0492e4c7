"""What an answer has to look like: as the engine of 2.1 takes it, and in words for the others.

(foundry-local-service.md, 4.3)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foundry_api.messages import Choice, Grammar, JsonSchema

if TYPE_CHECKING:
    from foundry_api.messages import ChatRequest, Constraint, Message

__all__ = ["constrained", "told"]


def constrained(body: dict[str, Any], constraint: Constraint | None) -> dict[str, Any]:
    """A body whose answer the engine will keep to the constraint, or to its own response format."""
    if constraint is None:
        return _bare(body)
    return {**body, "response_format": {"type": "lark_grammar", "lark_grammar": _lark(constraint)}}


def told(request: ChatRequest) -> tuple[Message, ...]:
    """The conversation, with what the answer has to look like in its system turn.

    A grammar would mean nothing to a model; `Capabilities.check` refuses it.
    """
    if not isinstance(request.constraint, JsonSchema | Choice):
        return request.messages
    from foundry_api.structured.prompting import instructed  # noqa: PLC0415 - few calls need it

    return instructed(request.messages, request.constraint)


def _lark(constraint: Constraint) -> str:
    if isinstance(constraint, Grammar):
        return constraint.lark
    from foundry_api.structured.shaping import lark_choice, lark_schema  # noqa: PLC0415 - as above

    if isinstance(constraint, Choice):
        return lark_choice(constraint.choices)
    return lark_schema(constraint.schema)


def _bare(body: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, where OpenAI's form wraps it: the engine takes a wrapper for a schema.

    It would be one that allows anything.
    """
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return {**body, "response_format": {"type": "json_schema", "json_schema": schema}}
        case _:
            return body
