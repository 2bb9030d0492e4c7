"""What an answer has to look like: as the engine of 2.1 takes it, and in words for the others.

(foundry-local-service.md, 4.3)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foundry_api.errors import GrammarError
from foundry_api.messages import Choice, Grammar, JsonSchema

if TYPE_CHECKING:
    from foundry_api.messages import ChatRequest, Constraint, Message

__all__ = ["constrained", "readable_schema", "told"]


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
    """The caller's own schema as the engine takes it, without the wrapper of OpenAI's form.

    The engine takes the wrapper for a schema that allows anything.
    """
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            pass
        case {"type": "json_schema", "json_schema": schema}:
            pass
        case _:
            return body
    form = {"type": "json_schema", "json_schema": readable_schema(schema)}
    return {**body, "response_format": form}


def readable_schema(schema: Any) -> Any:
    """A schema that a caller wrote into a body, with what lets answers end.

    What is no schema stays as it is: the service says what is wrong with it.
    """
    from foundry_api.structured.shaping import engine_schema  # noqa: PLC0415 - as above

    try:
        return schema if "x-guidance" in schema else engine_schema(schema)
    except (AttributeError, TypeError, ValueError, RecursionError, GrammarError):
        return schema
