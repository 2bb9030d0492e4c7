"""The formats of tool calls that are more than JSON between markers.

- `<function=name><parameter=key>value</parameter></function>` (Qwen3-Coder), also in `<tool_call>`
- `<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>` (GLM)
- `[TOOL_CALLS]name[ARGS]{…}` (Mistral)
- `<|tool_calls_begin|><|tool_call_begin|>name<|tool_sep|>{…}<|tool_call_end|>…` with wide bars and
  underscores (DeepSeek), and Kimi's form of it
- `<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>` (gpt-oss), also
  with the recipient first
- `<|python_tag|>{…}; {…}` and `<|python_tag|>name.call(key="value")` (Llama 3), also as a list
- `[name(key="value"), other()]` at the start of a line (Llama 3.2 and 4), also between
  `<|tool_call_start|>` and `<|tool_call_end|>` (LFM2)

A marker with a name behind it is proof enough, as in `call_shapes`; calls as Python writes them are
calls only if all of them have the name of a tool that was offered. Every format is read from its
beginning to its end, once for each time that the text has grown enough.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from foundry_api.tools.coercion import coerced
from foundry_api.wire.chat.tool_call_matching import (
    NOT_YET,
    Found,
    MalformedCall,
    NotYet,
    WrittenCall,
    call_of,
)
from foundry_api.wire.chat.tool_call_scanner import QUOTES, Incomplete, Scan

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from foundry_api.wire.chat.tool_call_matching import Seen

__all__ = ["python_calls", "read_format"]


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


if TYPE_CHECKING:
    Tools = Mapping[str, Mapping[str, Any]]


_LABEL: Final = re.compile(r"[^<>\s]{1,80}")
_WORTH_READING: Final = re.compile(
    r"<(?:\Z|[ft]|\|(?:\Z|[tcsp])|\uff5c(?:\Z|t))|\[(?:\Z|[T\s\w])|t(?:\Z|o(?:\Z|=))"
)
MAX_PARTS: Final = 4
"""Of a header: the role, the channel, perhaps once more, and the content type."""

_HEADER: Final = re.compile(r"[^<]{0,200}")
_RECIPIENT: Final = re.compile(r"\bto=(functions\.)?([\w.-]{1,80})")
_PARAMETER: Final = re.compile(r"<parameter=([^<>\n]{1,80})>")


def read_format(seen: Seen, tools: Tools) -> Found | NotYet | None:
    """Tell what stands at a place of the text: calls, what may become some, or neither.

    Args:
        seen: The text and the place.
        tools: The JSON schemas of the arguments of the tools that were offered, by name.

    Raises:
        MalformedCall: A marked call cannot be read.
    """
    if not _WORTH_READING.match(seen.text, seen.at):
        return None
    undecided = False
    for read in _FORMATS.get(seen.text[seen.at], ()):
        scan = Scan(seen)
        try:
            calls = read(scan, tools)
        except Incomplete:
            if seen.final and scan.proven:
                raise MalformedCall("it is not complete", seen.text[seen.at :]) from None
            undecided = True
            continue
        if calls:
            return Found(tuple(calls), scan.at)
    return NOT_YET if undecided else None


def _typed(name: str, given: dict[str, str], tools: Tools) -> WrittenCall:
    """A call whose arguments are texts, which its schema says how to read."""
    schema = tools.get(name, {})
    known: Mapping[str, Any] = schema.get("properties") or {}
    texts = {key: text.removeprefix("\n").removesuffix("\n") for key, text in given.items()}
    read = coerced({key: text for key, text in texts.items() if key in known}, schema)
    guessed = {key: _guessed(text) for key, text in texts.items() if key not in known}
    return WrittenCall(name, {key: {**read, **guessed}[key] for key in texts})


def _guessed(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text


def _xml(scan: Scan, tools: Tools) -> list[WrittenCall]:
    """Qwen3-Coder's: names and values in tags."""
    wrapped = scan.literal("<tool_call>")
    scan.blanks()
    calls: list[WrittenCall] = []
    opening = scan.literal("<function=")
    while opening == "<function=":
        name = scan.pattern(_LABEL)
        if name is None or not scan.literal(">"):
            return calls
        name = name.strip(QUOTES)
        scan.blanks()
        opening = scan.literal("<parameter=", "</function>")
        if not opening:
            return calls
        scan.proven = True
        given: dict[str, str] = {}
        while opening == "<parameter=":
            key = scan.upto(">").strip()
            _give(given, key, scan.upto("</parameter>"), tools.get(name, {}))
            scan.blanks()
            opening = scan.literal("<parameter=", "</function>")
        if not opening:
            raise scan.malformed("there is something else among its parameters")
        calls.append(_typed(name, given, tools))
        if wrapped:
            scan.blanks()
            opening = scan.optional("</tool_call>", "<function=")
    return calls


def _give(given: dict[str, str], key: str, text: str, schema: Mapping[str, Any]) -> None:
    """Take the text of a parameter, and of those behind it where the model closed none of them."""
    known: Mapping[str, Any] = schema.get("properties") or {}
    start = 0
    for opening in _PARAMETER.finditer(text):
        if opening[1].strip() in known:
            given[key] = text[start : opening.start()].rstrip(" ")
            key, start = opening[1].strip(), opening.end()
    given[key] = text[start:]


def _glm(scan: Scan, tools: Tools) -> list[WrittenCall]:
    """GLM's: a name, then keys and values in tags."""
    if not scan.literal("<tool_call>"):
        return []
    scan.blanks()
    name = scan.pattern(_WORD)
    if name is None:
        return []
    scan.blanks()
    opening = scan.literal("<arg_key>", "</tool_call>")
    if not opening or (opening == "</tool_call>" and name not in tools):
        return []
    scan.proven = True
    given: dict[str, str] = {}
    while opening == "<arg_key>":
        key = scan.upto("</arg_key>").strip()
        scan.blanks()
        if not scan.literal("<arg_value>"):
            raise scan.malformed(f"{key} has no value")
        given[key] = scan.upto("</arg_value>")
        scan.blanks()
        opening = scan.literal("<arg_key>", "</tool_call>")
    if not opening:
        raise scan.malformed("there is something else among its arguments")
    return [_typed(name, given, tools)]


def _mistral(scan: Scan, tools: Tools) -> list[WrittenCall]:
    """Mistral's newer one, with an id or without; a list behind the marker is the older."""
    if not scan.literal("[TOOL_CALLS]"):
        return []
    scan.blanks()
    name = scan.pattern(_WORD)
    if name is None:
        return []
    call_id = scan.upto("[ARGS]").strip() if scan.literal("[CALL_ID]") else None
    if call_id is None and not scan.literal("[ARGS]") and (scan.next() != "{" or name not in tools):
        return []
    scan.proven = True
    scan.blanks()
    return [WrittenCall(name, scan.json(), call_id or None)]


_WIDE_BAR: Final = "\N{FULLWIDTH VERTICAL LINE}"


def _marker(name: str) -> tuple[str, str]:
    """A marker of DeepSeek's, as it is and as those write it who have no such characters."""
    wide = name.replace("_", "\N{LOWER ONE EIGHTH BLOCK}")
    return f"<{_WIDE_BAR}{wide}{_WIDE_BAR}>", f"<|{name}|>"


_CALL_BEGIN: Final = _marker("tool_call_begin")
_CALL_END: Final = _marker("tool_call_end")
_CALLS_BEGIN: Final = (*_marker("tool_calls_begin"), "<|tool_calls_section_begin|>")
_CALLS_END: Final = (*_marker("tool_calls_end"), "<|tool_calls_section_end|>")
_SEPARATOR: Final = (*_marker("tool_sep"), "<|tool_call_argument_begin|>")
_NUMBERED: Final = re.compile(r"(?:functions\.)?(.*?)(?::\d+)?", re.DOTALL)


def _deepseek(scan: Scan, tools: Tools) -> list[WrittenCall]:
    """DeepSeek's and Kimi's: names and JSON between markers of their own."""
    del tools
    if scan.literal(*_CALLS_BEGIN):
        scan.blanks()
    calls: list[WrittenCall] = []
    opening = scan.literal(*_CALL_BEGIN)
    while opening in _CALL_BEGIN:
        scan.proven = True
        name = (scan.pattern(_HEADER) or "").strip()
        if not scan.literal(*_SEPARATOR):
            raise scan.malformed("it has no name")
        if name == "function":  # V3 and R1: the kind, and behind it the name and a fence
            name = (scan.pattern(_WORD) or "").strip()
            scan.blanks()
            scan.literal("```json", "```")
        scan.blanks()
        numbered = _NUMBERED.fullmatch(name)
        name = numbered[1] if numbered else name
        if not name:
            raise scan.malformed("it has no name")
        calls.append(WrittenCall(name, scan.json()))
        for closing in (("```",), _CALL_END):
            scan.blanks()
            scan.optional(*closing)
        scan.blanks()
        opening = scan.optional(*_CALL_BEGIN, *_CALLS_END)
    return calls


def _harmony(scan: Scan, tools: Tools) -> list[WrittenCall]:
    """gpt-oss's: a message to a function."""
    header = ""
    # The prompt may have ended in the role, so that the text begins with the recipient.
    opening = scan.literal("<|start|>assistant", "<|channel|>", "to=")
    if not opening or (opening == "to=" and not scan.starts_line):
        return []
    header += opening
    for _ in range(MAX_PARTS):
        header += f"{scan.pattern(_HEADER) or ''} "
        opening = scan.literal("<|channel|>", "<|constrain|>", "<|message|>")
        if not opening or opening == "<|message|>":
            break
    if opening != "<|message|>":
        return []
    recipient = _RECIPIENT.search(header)
    if recipient is None or not (recipient[1] or recipient[2] in tools):
        return []
    scan.proven = True
    scan.blanks()
    calls = [WrittenCall(recipient[2], scan.json())]
    scan.blanks()
    scan.optional("<|call|>", "<|end|>")
    return calls


def _python_tag(scan: Scan, tools: Tools) -> list[WrittenCall]:
    """Llama's: JSON, or a call as Python writes it. Other code behind the tag stays text."""
    if not scan.literal("<|python_tag|>"):
        return []
    scan.blanks()
    listed = scan.next() == "["
    if listed:
        scan.at += 1
        scan.blanks()
    if scan.next() != "{":
        return python_calls(scan, tools, listed=listed)
    scan.proven = True
    calls: list[WrittenCall] = []
    while True:
        call = call_of(scan.json())
        if call is None:
            raise scan.malformed("it has no name, or its arguments are not a JSON object")
        calls.append(call)
        scan.blanks()
        if listed:
            if scan.literal(",", "]") != ",":
                return calls
            scan.blanks()
            continue
        if not scan.optional(";"):
            return calls
        scan.blanks()
        if scan.ended:
            return calls


def _pythonic(scan: Scan, tools: Tools) -> list[WrittenCall]:
    """A list of calls as Python writes them."""
    marked = scan.literal("<|tool_call_start|>")
    scan.blanks()
    if not (marked or scan.starts_line) or not scan.literal("["):
        return []
    calls = python_calls(scan, tools, listed=True)
    if calls and marked:
        scan.blanks()
        scan.optional("<|tool_call_end|>")
    return calls


_FORMATS: Final[dict[str, tuple[Callable[[Scan, Tools], list[WrittenCall]], ...]]] = {
    "<": (_xml, _glm, _deepseek, _harmony, _python_tag, _pythonic),
    "[": (_mistral, _pythonic),
    "t": (_harmony,),
}
