"""The prompts and output format that Foundry Local's engine uses for tools.

Recorded from foundry-local-sdk 2.2.1. The engine adds the protocol to the system message,
constrains every answer with a grammar (FRAME and text, or a call between the markers), and puts
FRAME before earlier texts of the assistant, too.
"""

from __future__ import annotations

import json

CALL_START = "<tool_call>"
CALL_END = "</tool_call>"
FRAME = "MESSAGE\n"

TOOLS_FOLLOW = "Tool calling protocol for this conversation:\nAvailable tools:\n"
TO_CALL = "\nTo call tools, emit "
CALL_FORM = (
    ' followed by a JSON array of objects with exactly the keys "name" and "parameters", then '
)
CALL_RULES = (
    '. "name" must be a declared tool name and "parameters" must be its argument object. Use the '
    "dedicated tool boundary tokens, not a textual description or substitute characters. Emit the "
    "call block itself, without quoting it or using Markdown. Put all calls for this turn in one "
    "array inside one pair of tool boundaries. After the closing boundary, stop and wait for the "
    "external tool results. Use {} for parameterless tools. Do not use XML function or parameter "
    "tags. Each argument object must satisfy its tool's complete JSON Schema. Properties may "
    "appear in any order; omit unused optional properties. Preserve argument values exactly. JSON "
    "escaping, including Unicode escapes for literal angle brackets in strings, preserves the "
    "decoded value and is not substitution. If no tool is needed, answer normally."
)
TEXT_RULES = (
    "\nFor ordinary assistant text, including a brief preamble, first emit MESSAGE followed by a "
    "newline. This framing line is not message content. For a direct tool call, start with its "
    "tool boundary instead. Never return an unframed description, JSON array, or textual "
    "imitation of a tool call."
)
# Each fixed passage is one token of the vocabulary, so that the protocol takes 7 tokens, not 400.
PASSAGES = (TOOLS_FOLLOW, TO_CALL, CALL_FORM, CALL_RULES, TEXT_RULES)


def make_system_message(definitions: list[dict], *, required: bool = False) -> str:
    """Make the system message that declares tools; `required` if the request forces a call."""
    tools = [{"type": "function", "function": definition} for definition in definitions]
    parts = (
        TOOLS_FOLLOW,
        to_compact_json(tools),
        TO_CALL,
        CALL_START,
        CALL_FORM,
        CALL_END,
        CALL_RULES,
    )
    return "".join(parts) + ("" if required else TEXT_RULES)


def format_calls(calls: list[tuple[str, dict]]) -> str:
    """Format calls, each a name and arguments, as the model writes them."""
    return f"{CALL_START}{to_compact_json(to_call_list(calls))}{CALL_END}"


def to_call_list(calls: list[tuple[str, dict]]) -> list[dict]:
    return [{"name": name, "parameters": arguments} for name, arguments in calls]


def to_compact_json(value: object) -> str:
    """Encode JSON as the engine does."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
