"""What an answer has to look like, as the engine of 2.1 takes it (facts, section 4.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.messages import Choice, Grammar, JsonSchema

if TYPE_CHECKING:
    from foundry_api.messages import Constraint

__all__ = ["constrained"]


def constrained(body: dict[str, Any], constraint: Constraint | None) -> dict[str, Any]:
    """A body whose answer the engine will keep to the constraint, or to its own response format."""
    match constraint:
        case None:
            return _bare(body)
        case JsonSchema(schema):
            form = {"type": "json_schema", "json_schema": schema}
        case Choice(choices):
            form = {"type": "lark_grammar", "lark_grammar": _alternatives(choices)}
        case Grammar(lark):
            form = {"type": "lark_grammar", "lark_grammar": lark}
    return {**body, "response_format": form}


def _bare(body: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, where OpenAI's form wraps it: the engine takes a wrapper for a schema.

    It would be one that allows anything.
    """
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return {**body, "response_format": {"type": "json_schema", "json_schema": schema}}
        case _:
            return body


def _alternatives(choices: tuple[str, ...]) -> str:
    """A grammar that allows these texts and nothing else."""
    return "start: " + " | ".join(msgspec.json.encode(choice).decode() for choice in choices)
