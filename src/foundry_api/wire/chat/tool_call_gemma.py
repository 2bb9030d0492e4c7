"""Parses the tool call formats of Google's models.

- `<start_function_call>call:name{key:<escape>text<escape>,other:[1,2]}<end_function_call>`
  (FunctionGemma)
- `<|tool_call>call:name{key:<|"|>text<|"|>}<tool_call|>` (Gemma 4)
- a code fence `tool_code` with `name(key="text")` on each line, also in `print()` (Gemma 3)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from foundry_api.tools.coercion import coerce
from foundry_api.wire.chat.tool_call_matching import ParsedCall
from foundry_api.wire.chat.tool_call_python import parse_python_call, parse_python_calls
from foundry_api.wire.chat.tool_call_scanner import NAME, QUOTES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from foundry_api.wire.chat.tool_call_scanner import FormatScanner

__all__ = ["read_gemma", "read_tool_code"]

MAX_DEPTH: Final = 32  # of nested values

# For each marker the one at the end of a call, and the one around a text.
_MARKERS: Final = {
    "<start_function_call>": ("<end_function_call>", "<escape>"),
    "<|tool_call>": ("<tool_call|>", '<|"|>'),
}
_FENCE: Final = "```"
_KEY: Final = re.compile(r"[^\s:,{}\[\]<>\"']{1,80}")
_PLAIN: Final = re.compile(r"[^,{}\[\]<>\"']{1,700}")


class NotAValue(Exception):
    """The text at a position is not a value in Gemma's notation."""


def read_gemma(scanner: FormatScanner, tools: Mapping[str, Mapping[str, Any]]) -> list[ParsedCall]:
    """Parse the format of FunctionGemma and Gemma 4: a name, then keys and values in braces."""
    opening = scanner.read_literal(*_MARKERS)
    if not opening:
        return []
    closing, quote = _MARKERS[opening]
    scanner.skip_blanks()
    if not scanner.read_literal("call:"):
        return []
    scanner.skip_blanks()
    name = scanner.read_pattern(NAME)
    scanner.skip_blanks()
    if name is None or not scanner.read_literal("{"):
        return []
    scanner.is_proven = True
    try:
        arguments = _parse_members(scanner, quote, MAX_DEPTH)
    except NotAValue:
        raise scanner.make_error("its arguments cannot be parsed") from None
    scanner.skip_blanks()
    scanner.read_optional(closing)
    return [ParsedCall(name, coerce(arguments, tools.get(name, {})))]


def read_tool_code(scanner: FormatScanner, tools: Collection[str]) -> list[ParsedCall]:
    """Parse a code fence for tools. Other code in it stays text."""
    if not scanner.starts_line or not scanner.read_literal(f"{_FENCE}tool_code"):
        return []
    calls: list[ParsedCall] = []
    scanner.skip_blanks()
    if scanner.read_literal("["):
        calls = parse_python_calls(scanner, tools, is_list=True)
        scanner.skip_blanks()
        return calls if calls and (scanner.read_optional(_FENCE) or scanner.ended) else []
    while True:
        printed = scanner.read_literal("print(")
        call = parse_python_call(scanner, tools)
        if call is None or (printed and not scanner.read_literal(")")):
            return []
        calls.append(call)
        scanner.skip_blanks()
        if scanner.read_optional(_FENCE) or scanner.ended:
            return calls


def _parse_members(scanner: FormatScanner, quote: str, depth: int) -> dict[str, Any]:
    members: dict[str, Any] = {}
    scanner.skip_blanks()
    while not scanner.read_literal("}"):
        if scanner.read_literal(quote):
            key: str | None = scanner.read_until(quote)
        else:
            key = scanner.read_string() if scanner.peek() in QUOTES else scanner.read_pattern(_KEY)
        scanner.skip_blanks()
        if key is None or not scanner.read_literal(":"):
            raise NotAValue
        members[key] = _parse_value(scanner, quote, depth - 1)
        _skip_comma(scanner, "}")
    return members


def _parse_items(scanner: FormatScanner, quote: str, depth: int) -> list[Any]:
    items: list[Any] = []
    scanner.skip_blanks()
    while not scanner.read_literal("]"):
        items.append(_parse_value(scanner, quote, depth - 1))
        _skip_comma(scanner, "]")
    return items


def _skip_comma(scanner: FormatScanner, closing: str) -> None:
    scanner.skip_blanks()
    if scanner.read_literal(","):
        scanner.skip_blanks()
    elif scanner.peek() != closing:
        raise NotAValue


def _parse_value(scanner: FormatScanner, quote: str, depth: int) -> Any:
    if not depth:
        raise NotAValue
    scanner.skip_blanks()
    if scanner.read_literal(quote):
        return scanner.read_until(quote)
    if scanner.peek() in QUOTES:
        return scanner.read_string()
    if scanner.read_literal("{"):
        return _parse_members(scanner, quote, depth)
    if scanner.read_literal("["):
        return _parse_items(scanner, quote, depth)
    word = (scanner.read_pattern(_PLAIN) or "").strip()
    if not word:
        raise NotAValue
    try:
        return msgspec.json.decode(word)
    except (msgspec.DecodeError, UnicodeError):
        return word  # a text that the model forgot to quote
