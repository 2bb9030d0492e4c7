"""Parses the formats of tool calls that are more than JSON between markers.

- `<function=name><parameter=key>value</parameter></function>` (Qwen3-Coder), also in `<tool_call>`
- `<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>` (GLM)
- `[TOOL_CALLS]name[ARGS]{…}` (Mistral)
- `<|tool_calls_begin|><|tool_call_begin|>name<|tool_sep|>{…}<|tool_call_end|>…` with wide bars and
  underscores (DeepSeek), and Kimi's variant of it
- `<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>` (gpt-oss), also
  with the recipient first
- `<|python_tag|>{…}; {…}` and `<|python_tag|>name.call(key="value")` (Llama 3), also as a list
- `[name(key="value"), other()]` at the start of a line (Llama 3.2 and 4), also between
  `<|tool_call_start|>` and `<|tool_call_end|>` (LFM2)

A name after a marker makes a call. Calls in Python notation count only if all of them name offered
tools.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from foundry_api.tools.coercion import coerce
from foundry_api.wire.chat.tool_call_matching import (
    INCOMPLETE,
    CallsFound,
    Incomplete,
    MalformedCall,
    ParsedCall,
    parse_call,
)
from foundry_api.wire.chat.tool_call_scanner import QUOTES, FormatScanner, TextEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from foundry_api.wire.chat.tool_call_matching import TextWindow

    Tools = Mapping[str, Mapping[str, Any]]  # the JSON schemas of their arguments

__all__ = ["parse_python_calls", "read_format"]


MAX_DEPTH: Final = 32  # of nested values
MAX_HEADER_PARTS: Final = 4  # role, channel, perhaps again, and content type

# A quick check before any format is parsed.
_POSSIBLE_START: Final = re.compile(
    r"<(?:\Z|[ft]|\|(?:\Z|[tcsp])|\uff5c(?:\Z|t))|\[(?:\Z|[T\s\w])|t(?:\Z|o(?:\Z|=))"
)

# All repetitions are bounded, so that ordinary text soon stops matching and is not held back.
_LABEL: Final = re.compile(r"[^<>\s]{1,80}")
_NAME: Final = re.compile(r"[\w.-]{1,80}")
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

_HEADER: Final = re.compile(r"[^<]{0,200}")
_RECIPIENT: Final = re.compile(r"\bto=(functions\.)?([\w.-]{1,80})")
_PARAMETER: Final = re.compile(r"<parameter=([^<>\n]{1,80})>")

_WIDE_BAR: Final = "\N{FULLWIDTH VERTICAL LINE}"


def _make_marker(name: str) -> tuple[str, str]:
    # DeepSeek's own characters, and ASCII for models whose tokenizers lack them.
    wide = name.replace("_", "\N{LOWER ONE EIGHTH BLOCK}")
    return f"<{_WIDE_BAR}{wide}{_WIDE_BAR}>", f"<|{name}|>"


_CALL_BEGIN: Final = _make_marker("tool_call_begin")
_CALL_END: Final = _make_marker("tool_call_end")
_CALLS_BEGIN: Final = (*_make_marker("tool_calls_begin"), "<|tool_calls_section_begin|>")
_CALLS_END: Final = (*_make_marker("tool_calls_end"), "<|tool_calls_section_end|>")
_SEPARATOR: Final = (*_make_marker("tool_sep"), "<|tool_call_argument_begin|>")
# Kimi writes a name as `functions.NAME:0`.
_NUMBERED: Final = re.compile(r"(?:functions\.)?(.*?)(?::\d+)?", re.DOTALL)


class NotAValue(Exception):
    """The text at a position is not a Python value."""


def read_format(window: TextWindow, tools: Tools) -> CallsFound | Incomplete | None:
    """Return the calls at a position, INCOMPLETE for what may become some, or neither."""
    # A format is parsed from its beginning each time. The caller limits how often.
    if not _POSSIBLE_START.match(window.text, window.position):
        return None
    is_undecided = False
    for reader in _FORMATS.get(window.text[window.position], ()):
        scan = FormatScanner(window)
        try:
            calls = reader(scan, tools)
        except TextEnded:
            if window.is_final and scan.is_proven:
                raise MalformedCall("it is not complete", window.text[window.position :]) from None
            is_undecided = True
            continue
        if calls:
            return CallsFound(tuple(calls), scan.position)
    return INCOMPLETE if is_undecided else None


def _read_qwen_xml(scan: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse Qwen3-Coder's format: names and values in tags."""
    tag = scan.read_literal("<tool_call>")
    scan.skip_blanks()
    calls: list[ParsedCall] = []
    opening = scan.read_literal("<function=")
    while opening == "<function=":
        name = scan.read_pattern(_LABEL)
        if name is None or not scan.read_literal(">"):
            return calls
        name = name.strip(QUOTES)
        scan.skip_blanks()
        opening = scan.read_literal("<parameter=", "</function>")
        if not opening:
            return calls
        scan.is_proven = True
        parameters: dict[str, str] = {}
        while opening == "<parameter=":
            key = scan.read_until(">").strip()
            text = scan.read_until("</parameter>")
            properties: Mapping[str, Any] = tools.get(name, {}).get("properties") or {}
            start = 0
            # Models forget closing tags, so the text may contain further parameters.
            for match in _PARAMETER.finditer(text):
                if match[1].strip() in properties:
                    parameters[key] = text[start : match.start()].rstrip(" ")
                    key, start = match[1].strip(), match.end()
            parameters[key] = text[start:]
            scan.skip_blanks()
            opening = scan.read_literal("<parameter=", "</function>")
        if not opening:
            raise scan.make_error("there is something else among its parameters")
        calls.append(_make_typed_call(name, parameters, tools))
        if tag:
            scan.skip_blanks()
            opening = scan.read_optional("</tool_call>", "<function=")
    return calls


def _read_glm(scan: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse GLM's format: a name, then keys and values in tags."""
    if not scan.read_literal("<tool_call>"):
        return []
    scan.skip_blanks()
    name = scan.read_pattern(_NAME)
    if name is None:
        return []
    scan.skip_blanks()
    opening = scan.read_literal("<arg_key>", "</tool_call>")
    if not opening or (opening == "</tool_call>" and name not in tools):
        return []
    scan.is_proven = True
    arguments: dict[str, str] = {}
    while opening == "<arg_key>":
        key = scan.read_until("</arg_key>").strip()
        scan.skip_blanks()
        if not scan.read_literal("<arg_value>"):
            raise scan.make_error(f"{key} has no value")
        arguments[key] = scan.read_until("</arg_value>")
        scan.skip_blanks()
        opening = scan.read_literal("<arg_key>", "</tool_call>")
    if not opening:
        raise scan.make_error("there is something else among its arguments")
    return [_make_typed_call(name, arguments, tools)]


def _read_mistral(scan: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse Mistral's newer format. The older one, a list after the marker, is in match_calls."""
    if not scan.read_literal("[TOOL_CALLS]"):
        return []
    scan.skip_blanks()
    name = scan.read_pattern(_NAME)
    if name is None:
        return []
    call_id = scan.read_until("[ARGS]").strip() if scan.read_literal("[CALL_ID]") else None
    if (
        call_id is None
        and not scan.read_literal("[ARGS]")
        and (scan.peek() != "{" or name not in tools)
    ):
        return []
    scan.is_proven = True
    scan.skip_blanks()
    return [ParsedCall(name, scan.read_json(), call_id or None)]


def _read_deepseek(scan: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse the format of DeepSeek and Kimi: names and JSON between special markers."""
    del tools
    if scan.read_literal(*_CALLS_BEGIN):
        scan.skip_blanks()
    calls: list[ParsedCall] = []
    opening = scan.read_literal(*_CALL_BEGIN)
    while opening in _CALL_BEGIN:
        scan.is_proven = True
        name = (scan.read_pattern(_HEADER) or "").strip()
        if not scan.read_literal(*_SEPARATOR):
            raise scan.make_error("it has no name")
        if name == "function":  # V3 and R1 write the kind first, then the name and a code fence
            name = (scan.read_pattern(_NAME) or "").strip()
            scan.skip_blanks()
            scan.read_literal("```json", "```")
        scan.skip_blanks()
        numbered = _NUMBERED.fullmatch(name)
        name = numbered[1] if numbered else name
        if not name:
            raise scan.make_error("it has no name")
        calls.append(ParsedCall(name, scan.read_json()))
        for closing in (("```",), _CALL_END):
            scan.skip_blanks()
            scan.read_optional(*closing)
        scan.skip_blanks()
        opening = scan.read_optional(*_CALL_BEGIN, *_CALLS_END)
    return calls


def _read_harmony(scan: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse gpt-oss's format: a message to a function."""
    header = ""
    # The prompt may end with the role, so that the text begins with the recipient.
    opening = scan.read_literal("<|start|>assistant", "<|channel|>", "to=")
    if not opening or (opening == "to=" and not scan.starts_line):
        return []
    header += opening
    for _ in range(MAX_HEADER_PARTS):
        header += f"{scan.read_pattern(_HEADER) or ''} "
        opening = scan.read_literal("<|channel|>", "<|constrain|>", "<|message|>")
        if not opening or opening == "<|message|>":
            break
    if opening != "<|message|>":
        return []
    recipient = _RECIPIENT.search(header)
    if recipient is None or not (recipient[1] or recipient[2] in tools):
        return []
    scan.is_proven = True
    scan.skip_blanks()
    calls = [ParsedCall(recipient[2], scan.read_json())]
    scan.skip_blanks()
    scan.read_optional("<|call|>", "<|end|>")
    return calls


def _read_python_tag(scan: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse Llama's format: JSON or a Python call. Other code after the tag stays text."""
    if not scan.read_literal("<|python_tag|>"):
        return []
    scan.skip_blanks()
    is_list = scan.peek() == "["
    if is_list:
        scan.position += 1
        scan.skip_blanks()
    if scan.peek() != "{":
        return parse_python_calls(scan, tools, is_list=is_list)
    scan.is_proven = True
    calls: list[ParsedCall] = []
    while True:
        call = parse_call(scan.read_json())
        if call is None:
            raise scan.make_error("it has no name, or its arguments are not a JSON object")
        calls.append(call)
        scan.skip_blanks()
        if is_list:
            if scan.read_literal(",", "]") != ",":
                return calls
            scan.skip_blanks()
            continue
        if not scan.read_optional(";"):
            return calls
        scan.skip_blanks()
        if scan.ended:
            return calls


def _read_pythonic(scan: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse a list of Python calls."""
    marker = scan.read_literal("<|tool_call_start|>")
    scan.skip_blanks()
    if not (marker or scan.starts_line) or not scan.read_literal("["):
        return []
    calls = parse_python_calls(scan, tools, is_list=True)
    if calls and marker:
        scan.skip_blanks()
        scan.read_optional("<|tool_call_end|>")
    return calls


def parse_python_calls(
    scan: FormatScanner, tools: Collection[str], *, is_list: bool = False
) -> list[ParsedCall]:
    """Parse Python calls; return none if one of them does not call an offered tool."""
    calls: list[ParsedCall] = []
    while True:
        scan.skip_blanks()
        name = _parse_tool_name(scan, tools)
        arguments = None if name is None else _parse_arguments(scan)
        if name is None or arguments is None:
            return []
        calls.append(ParsedCall(name, arguments))
        scan.skip_blanks()
        if not is_list:
            if scan.ended or not scan.read_optional(";"):
                return calls
            scan.skip_blanks()
            if scan.ended:
                return calls
        elif (closing := scan.read_literal(",", "]")) != ",":
            return calls if closing else []


def _parse_arguments(scan: FormatScanner) -> dict[str, Any] | None:
    """Parse the parentheses after a name; return None if they contain no keyword arguments."""
    if not scan.read_literal("("):
        return None
    arguments: dict[str, Any] = {}
    scan.skip_blanks()
    closing = scan.read_literal(")")
    while closing != ")":
        scan.skip_blanks()
        key = scan.read_pattern(_KEY)
        scan.skip_blanks()
        if key is None or not scan.read_literal("="):
            return None
        try:
            arguments[key] = _parse_value(scan, MAX_DEPTH)
        except NotAValue:
            return None
        scan.skip_blanks()
        closing = scan.read_literal(",", ")")
        if not closing:
            return None
        scan.skip_blanks()
        if closing == ",":
            closing = scan.read_literal(")")
    return arguments


def _parse_tool_name(scan: FormatScanner, tools: Collection[str]) -> str | None:
    """Parse the name of an offered tool. Llama calls built-in tools as `name.call`."""
    start = scan.position
    try:
        name = scan.read_pattern(_NAME)
    except TextEnded:
        text = scan.get_rest(start)
        if any(f"{tool}.call".startswith(text) for tool in tools):
            raise
        return None
    if name is None:
        return None
    for candidate in (name, name.removesuffix(".call")):
        if candidate in tools:
            return candidate
    return None


def _parse_value(scan: FormatScanner, depth: int) -> Any:
    scan.skip_blanks()
    first = scan.peek()
    if not depth:
        raise NotAValue
    if first in QUOTES:
        return scan.read_string()
    if first in "[(":
        scan.position += 1
        return _parse_items(scan, depth, "]" if first == "[" else ")")
    if first == "{":
        scan.position += 1
        return _parse_members(scan, depth)
    word = scan.read_pattern(_PLAIN)
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    if word is None or not _NUMBER.fullmatch(word):
        raise NotAValue
    number = word.replace("_", "")
    return float(number) if any(mark in number for mark in ".eE") else int(number)


def _parse_items(scan: FormatScanner, depth: int, end: str) -> list[Any]:
    items: list[Any] = []
    scan.skip_blanks()
    while not scan.read_literal(end):
        items.append(_parse_value(scan, depth - 1))
        scan.skip_blanks()
        if scan.peek() == ",":
            scan.position += 1
            scan.skip_blanks()
        elif scan.peek() != end:
            raise NotAValue
    return items


def _parse_members(scan: FormatScanner, depth: int) -> dict[str, Any]:
    members: dict[str, Any] = {}
    scan.skip_blanks()
    while not scan.read_literal("}"):
        if scan.peek() not in QUOTES:
            raise NotAValue
        key = scan.read_string()
        scan.skip_blanks()
        if not scan.read_literal(":"):
            raise NotAValue
        members[key] = _parse_value(scan, depth - 1)
        scan.skip_blanks()
        if scan.peek() == ",":
            scan.position += 1
            scan.skip_blanks()
        elif scan.peek() != "}":
            raise NotAValue
    return members


def _make_typed_call(name: str, texts_by_name: dict[str, str], tools: Tools) -> ParsedCall:
    """Make a call from arguments in text form, with the types of its schema."""
    schema = tools.get(name, {})
    properties: Mapping[str, Any] = schema.get("properties") or {}
    texts = {key: text.removeprefix("\n").removesuffix("\n") for key, text in texts_by_name.items()}
    typed_arguments = coerce(
        {key: text for key, text in texts.items() if key in properties}, schema
    )
    arguments: dict[str, Any] = {}
    for key, text in texts.items():
        if key in properties:
            arguments[key] = typed_arguments[key]
            continue
        try:
            arguments[key] = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            arguments[key] = text
    return ParsedCall(name, arguments)


_FORMATS: Final[dict[str, tuple[Callable[[FormatScanner, Tools], list[ParsedCall]], ...]]] = {
    "<": (
        _read_qwen_xml,
        _read_glm,
        _read_deepseek,
        _read_harmony,
        _read_python_tag,
        _read_pythonic,
    ),
    "[": (_read_mistral, _read_pythonic),
    "t": (_read_harmony,),
}
