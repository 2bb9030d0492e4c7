"""Tool calls as Python writes them: `name(key="value", other=[1, 2])`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from foundry_api.wire.dialects.call_scan import QUOTES, Incomplete
from foundry_api.wire.dialects.call_shapes import WrittenCall

if TYPE_CHECKING:
    from collections.abc import Collection

    from foundry_api.wire.dialects.call_scan import Scan

__all__ = ["python_calls"]

MAX_DEPTH: Final = 32
"""How deep values may be nested."""

_WORD: Final = re.compile(r"[\w.-]{1,80}")
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


class NoValue(Exception):
    """What stands there is no value."""


def python_calls(scan: Scan, tools: Collection[str], *, listed: bool = False) -> list[WrittenCall]:
    """The calls that stand here; none if one of them is no call of a tool that was offered.

    Args:
        scan: Where they stand.
        tools: The names of the tools.
        listed: Whether it is a list of calls, whose bracket was passed.
    """
    calls: list[WrittenCall] = []
    while True:
        scan.blanks()
        name = _name_of_tool(scan, tools)
        given = None if name is None else _arguments(scan)
        if name is None or given is None:
            return []
        calls.append(WrittenCall(name, given))
        scan.blanks()
        if not listed:
            if scan.ended or not scan.optional(";"):
                return calls
            scan.blanks()
            if scan.ended:
                return calls
        elif (closing := scan.literal(",", "]")) != ",":
            return calls if closing else []


def _arguments(scan: Scan) -> dict[str, Any] | None:
    """What stands between the brackets behind a name, which are passed; None if it is no call."""
    if not scan.literal("("):
        return None
    given: dict[str, Any] = {}
    scan.blanks()
    closing = scan.literal(")")
    while closing != ")":
        scan.blanks()
        key = scan.pattern(_KEY)
        scan.blanks()
        if key is None or not scan.literal("="):
            return None
        try:
            given[key] = _python_value(scan, MAX_DEPTH)
        except NoValue:
            return None
        scan.blanks()
        closing = scan.literal(",", ")")
        if not closing:
            return None
        scan.blanks()
        if closing == ",":
            closing = scan.literal(")")
    return given


def _name_of_tool(scan: Scan, tools: Collection[str]) -> str | None:
    """The name of a tool that was offered; Llama's own tools are called as `name.call`."""
    start = scan.at
    try:
        name = scan.pattern(_WORD)
    except Incomplete:
        begun = scan.rest_from(start)
        if any(f"{tool}.call".startswith(begun) for tool in tools):
            raise
        return None
    if name is None:
        return None
    for told in (name, name.removesuffix(".call")):
        if told in tools:
            return told
    return None


def _python_value(scan: Scan, depth: int) -> Any:
    scan.blanks()
    first = scan.next()
    if not depth:
        raise NoValue
    if first in QUOTES:
        return scan.string()
    if first in "[(":
        scan.at += 1
        return _python_items(scan, depth, "]" if first == "[" else ")")
    if first == "{":
        scan.at += 1
        return _python_members(scan, depth)
    word = scan.pattern(_PLAIN)
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    if word is None or not _NUMBER.fullmatch(word):
        raise NoValue
    number = word.replace("_", "")
    return float(number) if any(mark in number for mark in ".eE") else int(number)


def _python_items(scan: Scan, depth: int, end: str) -> list[Any]:
    items: list[Any] = []
    scan.blanks()
    while not scan.literal(end):
        items.append(_python_value(scan, depth - 1))
        scan.blanks()
        if scan.next() == ",":
            scan.at += 1
            scan.blanks()
        elif scan.next() != end:
            raise NoValue
    return items


def _python_members(scan: Scan, depth: int) -> dict[str, Any]:
    members: dict[str, Any] = {}
    scan.blanks()
    while not scan.literal("}"):
        if scan.next() not in QUOTES:
            raise NoValue
        key = scan.string()
        scan.blanks()
        if not scan.literal(":"):
            raise NoValue
        members[key] = _python_value(scan, depth - 1)
        scan.blanks()
        if scan.next() == ",":
            scan.at += 1
            scan.blanks()
        elif scan.next() != "}":
            raise NoValue
    return members
