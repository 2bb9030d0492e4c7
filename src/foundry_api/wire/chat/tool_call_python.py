"""Parses calls in Python notation, such as `name(key="value", other=[1, 2])`.

Only calls of offered tools count: nothing else distinguishes them from code.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from foundry_api.wire.chat.tool_call_matching import ParsedCall
from foundry_api.wire.chat.tool_call_scanner import NAME, QUOTES, TextEnded

if TYPE_CHECKING:
    from collections.abc import Collection

    from foundry_api.wire.chat.tool_call_scanner import FormatScanner

__all__ = ["parse_python_call", "parse_python_calls"]

MAX_DEPTH: Final = 32  # of nested values

_KEY: Final = re.compile(r"[A-Za-z_]\w{0,80}")
_PLAIN: Final = re.compile(r"[^\s,:=()\[\]{}\"']{1,700}")
_NUMBER: Final = re.compile(
    r"[+-]?(?:\d[\d_]{0,300}(?:\.\d{0,300})?|\.\d{1,300})(?:[eE][+-]?\d{1,3})?"
)
_CONSTANTS: Final = {
    "True": True,
    "False": False,
    "None": None,
    "true": True,
    "false": False,
    "null": None,
}


class NotAValue(Exception):
    """The text at a position is not a Python value."""


def parse_python_calls(
    scanner: FormatScanner, tools: Collection[str], *, is_list: bool = False
) -> list[ParsedCall]:
    """Parse Python calls; return none if one of them does not call an offered tool."""
    calls: list[ParsedCall] = []
    while True:
        scanner.skip_blanks()
        call = parse_python_call(scanner, tools)
        if call is None:
            return []
        calls.append(call)
        scanner.skip_blanks()
        if not is_list:
            if scanner.ended or not scanner.read_optional(";"):
                return calls
            scanner.skip_blanks()
            if scanner.ended:
                return calls
        elif (closing := scanner.read_literal(",", "]")) != ",":
            return calls if closing else []


def parse_python_call(scanner: FormatScanner, tools: Collection[str]) -> ParsedCall | None:
    """Parse one call of an offered tool, with keyword arguments only."""
    name = _parse_tool_name(scanner, tools)
    arguments = None if name is None else _parse_arguments(scanner)
    return None if name is None or arguments is None else ParsedCall(name, arguments)


def _parse_arguments(scanner: FormatScanner) -> dict[str, Any] | None:
    """Parse the parentheses after a name; return None if they contain no keyword arguments."""
    if not scanner.read_literal("("):
        return None
    arguments: dict[str, Any] = {}
    scanner.skip_blanks()
    closing = scanner.read_literal(")")
    while closing != ")":
        scanner.skip_blanks()
        key = scanner.read_pattern(_KEY)
        scanner.skip_blanks()
        if key is None or not scanner.read_literal("="):
            return None
        try:
            arguments[key] = _parse_value(scanner, MAX_DEPTH)
        except NotAValue:
            return None
        scanner.skip_blanks()
        closing = scanner.read_literal(",", ")")
        if not closing:
            return None
        scanner.skip_blanks()
        if closing == ",":
            closing = scanner.read_literal(")")
    return arguments


def _parse_tool_name(scanner: FormatScanner, tools: Collection[str]) -> str | None:
    """Parse the name of an offered tool. Llama calls built-in tools as `name.call`."""
    start = scanner.position
    try:
        name = scanner.read_pattern(NAME)
    except TextEnded:
        text = scanner.get_rest(start)
        if any(f"{tool}.call".startswith(text) for tool in tools):
            raise
        return None
    if name is None:
        return None
    for candidate in (name, name.removesuffix(".call")):
        if candidate in tools:
            return candidate
    return None


def _parse_value(scanner: FormatScanner, depth: int) -> Any:
    scanner.skip_blanks()
    first = scanner.peek()
    if not depth:
        raise NotAValue
    if first in QUOTES:
        return scanner.read_string()
    if first in "[(":
        scanner.position += 1
        return _parse_items(scanner, depth, "]" if first == "[" else ")")
    if first == "{":
        scanner.position += 1
        return _parse_members(scanner, depth)
    word = scanner.read_pattern(_PLAIN)
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    if word is None or not _NUMBER.fullmatch(word):
        raise NotAValue
    number = word.replace("_", "")
    return float(number) if any(mark in number for mark in ".eE") else int(number)


def _parse_items(scanner: FormatScanner, depth: int, end: str) -> list[Any]:
    items: list[Any] = []
    scanner.skip_blanks()
    while not scanner.read_literal(end):
        items.append(_parse_value(scanner, depth - 1))
        scanner.skip_blanks()
        if scanner.peek() == ",":
            scanner.position += 1
            scanner.skip_blanks()
        elif scanner.peek() != end:
            raise NotAValue
    return items


def _parse_members(scanner: FormatScanner, depth: int) -> dict[str, Any]:
    members: dict[str, Any] = {}
    scanner.skip_blanks()
    while not scanner.read_literal("}"):
        if scanner.peek() not in QUOTES:
            raise NotAValue
        key = scanner.read_string()
        scanner.skip_blanks()
        if not scanner.read_literal(":"):
            raise NotAValue
        members[key] = _parse_value(scanner, depth - 1)
        scanner.skip_blanks()
        if scanner.peek() == ",":
            scanner.position += 1
            scanner.skip_blanks()
        elif scanner.peek() != "}":
            raise NotAValue
    return members
