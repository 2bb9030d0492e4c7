"""Parses the formats of tool calls that are more than JSON between markers.

- `<function=name><parameter=key>value</parameter></function>` (Qwen3-Coder), also in `<tool_call>`
- `<invoke name="name"><parameter name="key">value</parameter></invoke>` (MiniMax, and models that
  learned from Claude's answers), also in `<function_calls>` or `<minimax:tool_call>`
- `<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>` (GLM)
- `[TOOL_CALLS]name[ARGS]{…}` (Mistral)
- `<|tool_calls_begin|><|tool_call_begin|>name<|tool_sep|>{…}<|tool_call_end|>…` with wide bars and
  underscores (DeepSeek), and Kimi's variant of it
- `<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>` (gpt-oss), also
  with the recipient first
- `<|python_tag|>{…}; {…}` and `<|python_tag|>name.call(key="value")` (Llama 3), also as a list
- `[name(key="value"), other()]` at the start of a line (Llama 3.2 and 4), also between
  `<|tool_call_start|>` and `<|tool_call_end|>` (LFM2)
- the formats in `tool_call_gemma.py`

A name after a marker makes a call. Calls in Python notation and `<invoke>` alone, which may be
other code, count only with the names of offered tools.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from foundry_api.tools.coercion import coerce
from foundry_api.wire.chat.tool_call_gemma import read_gemma, read_tool_code
from foundry_api.wire.chat.tool_call_matching import (
    INCOMPLETE,
    CallsFound,
    Incomplete,
    MalformedCall,
    ParsedCall,
    parse_call,
)
from foundry_api.wire.chat.tool_call_python import parse_python_calls
from foundry_api.wire.chat.tool_call_scanner import NAME, QUOTES, FormatScanner, TextEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from foundry_api.wire.chat.tool_call_matching import TextWindow

    Tools = Mapping[str, Mapping[str, Any]]  # the JSON schemas of their arguments

__all__ = ["read_format"]

MAX_HEADER_PARTS: Final = 4  # role, channel, perhaps again, and content type

# A quick check before any format is parsed.
_POSSIBLE_START: Final = re.compile(
    r"<(?:\Z|[fimst]|\|(?:\Z|[tcsp])|\uff5c(?:\Z|t))|\[(?:\Z|[T\s\w])|t(?:\Z|o(?:\Z|=))"
    r"|`(?:\Z|`(?:\Z|`(?:\Z|t)))"
)

# All repetitions are bounded, so that ordinary text soon stops matching and is not held back.
_LABEL: Final = re.compile(r"[^<>\s]{1,80}")
_HEADER: Final = re.compile(r"[^<]{0,200}")
_RECIPIENT: Final = re.compile(r"\bto=(functions\.)?([\w.-]{1,80})")
_INVOCATIONS: Final = {
    "<function_calls>": "</function_calls>",
    "<minimax:tool_call>": "</minimax:tool_call>",
}
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


def read_format(window: TextWindow, tools: Tools) -> CallsFound | Incomplete | None:
    """Return the calls at a position, INCOMPLETE for what may become some, or neither."""
    # A format is parsed from its beginning each time. The caller limits how often.
    if not _POSSIBLE_START.match(window.text, window.position):
        return None
    is_undecided = False
    for reader in _FORMATS.get(window.text[window.position], ()):
        scanner = FormatScanner(window)
        try:
            calls = reader(scanner, tools)
        except TextEnded:
            if window.is_final and scanner.is_proven:
                raise MalformedCall("it is not complete", window.text[window.position :]) from None
            is_undecided = True
            continue
        if calls:
            return CallsFound(tuple(calls), scanner.position)
    return INCOMPLETE if is_undecided else None


def _read_qwen_xml(scanner: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse Qwen3-Coder's format: names and values in tags."""
    tag = scanner.read_literal("<tool_call>")
    scanner.skip_blanks()
    calls: list[ParsedCall] = []
    opening = scanner.read_literal("<function=")
    while opening == "<function=":
        name = scanner.read_pattern(_LABEL)
        if name is None or not scanner.read_literal(">"):
            return calls
        name = name.strip(QUOTES)
        scanner.skip_blanks()
        opening = scanner.read_literal("<parameter=", "</function>")
        if not opening:
            return calls
        scanner.is_proven = True
        parameters: dict[str, str] = {}
        while opening == "<parameter=":
            key = scanner.read_until(">").strip()
            text = scanner.read_until("</parameter>")
            properties: Mapping[str, Any] = tools.get(name, {}).get("properties") or {}
            start = 0
            # Models forget closing tags, so the text may contain further parameters.
            for match in _PARAMETER.finditer(text):
                if match[1].strip() in properties:
                    parameters[key] = text[start : match.start()].rstrip(" ")
                    key, start = match[1].strip(), match.end()
            parameters[key] = text[start:]
            scanner.skip_blanks()
            opening = scanner.read_literal("<parameter=", "</function>")
        if not opening:
            raise scanner.make_error("there is something else among its parameters")
        calls.append(_make_typed_call(name, parameters, tools))
        if tag:
            scanner.skip_blanks()
            opening = scanner.read_optional("</tool_call>", "<function=")
    return calls


def _read_invoke(scanner: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse calls with names and values in tags, and the names of both in attributes."""
    group = scanner.read_literal(*_INVOCATIONS)
    scanner.skip_blanks()
    calls: list[ParsedCall] = []
    opening = scanner.read_literal("<invoke name=")
    while opening == "<invoke name=":
        name = (scanner.read_pattern(_LABEL) or "").strip(QUOTES)
        if not name or not scanner.read_literal(">") or not (group or name in tools):
            return calls
        scanner.is_proven = True
        scanner.skip_blanks()
        parameters: dict[str, str] = {}
        while opening := scanner.read_literal("<parameter name=", "</invoke>"):
            if opening == "</invoke>":
                break
            key = scanner.read_until(">").strip().strip(QUOTES)
            parameters[key] = scanner.read_until("</parameter>")
            scanner.skip_blanks()
        else:
            raise scanner.make_error("there is something else among its parameters")
        calls.append(_make_typed_call(name, parameters, tools))
        if group:
            scanner.skip_blanks()
            opening = scanner.read_optional(_INVOCATIONS[group], "<invoke name=")
    return calls


def _read_glm(scanner: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse GLM's format: a name, then keys and values in tags."""
    if not scanner.read_literal("<tool_call>"):
        return []
    scanner.skip_blanks()
    name = scanner.read_pattern(NAME)
    if name is None:
        return []
    scanner.skip_blanks()
    opening = scanner.read_literal("<arg_key>", "</tool_call>")
    if not opening or (opening == "</tool_call>" and name not in tools):
        return []
    scanner.is_proven = True
    arguments: dict[str, str] = {}
    while opening == "<arg_key>":
        key = scanner.read_until("</arg_key>").strip()
        scanner.skip_blanks()
        if not scanner.read_literal("<arg_value>"):
            raise scanner.make_error(f"{key} has no value")
        arguments[key] = scanner.read_until("</arg_value>")
        scanner.skip_blanks()
        opening = scanner.read_literal("<arg_key>", "</tool_call>")
    if not opening:
        raise scanner.make_error("there is something else among its arguments")
    return [_make_typed_call(name, arguments, tools)]


def _read_mistral(scanner: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse Mistral's newer format. The older one, a list after the marker, is in match_calls."""
    if not scanner.read_literal("[TOOL_CALLS]"):
        return []
    scanner.skip_blanks()
    name = scanner.read_pattern(NAME)
    if name is None:
        return []
    call_id = scanner.read_until("[ARGS]").strip() if scanner.read_literal("[CALL_ID]") else None
    if (
        call_id is None
        and not scanner.read_literal("[ARGS]")
        and (scanner.peek() != "{" or name not in tools)
    ):
        return []
    scanner.is_proven = True
    scanner.skip_blanks()
    return [ParsedCall(name, scanner.read_json(), call_id or None)]


def _read_deepseek(scanner: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse the format of DeepSeek and Kimi: names and JSON between special markers."""
    del tools
    if scanner.read_literal(*_CALLS_BEGIN):
        scanner.skip_blanks()
    calls: list[ParsedCall] = []
    opening = scanner.read_literal(*_CALL_BEGIN)
    while opening in _CALL_BEGIN:
        scanner.is_proven = True
        name = (scanner.read_pattern(_HEADER) or "").strip()
        if not scanner.read_literal(*_SEPARATOR):
            raise scanner.make_error("it has no name")
        if name == "function":  # V3 and R1 write the kind first, then the name and a code fence
            name = (scanner.read_pattern(NAME) or "").strip()
            scanner.skip_blanks()
            scanner.read_literal("```json", "```")
        scanner.skip_blanks()
        numbered = _NUMBERED.fullmatch(name)
        name = numbered[1] if numbered else name
        if not name:
            raise scanner.make_error("it has no name")
        calls.append(ParsedCall(name, scanner.read_json()))
        for closing in (("```",), _CALL_END):
            scanner.skip_blanks()
            scanner.read_optional(*closing)
        scanner.skip_blanks()
        opening = scanner.read_optional(*_CALL_BEGIN, *_CALLS_END)
    return calls


def _read_harmony(scanner: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse gpt-oss's format: a message to a function."""
    header = ""
    # The prompt may end with the role, so that the text begins with the recipient.
    opening = scanner.read_literal("<|start|>assistant", "<|channel|>", "to=")
    if not opening or (opening == "to=" and not scanner.starts_line):
        return []
    header += opening
    for _ in range(MAX_HEADER_PARTS):
        header += f"{scanner.read_pattern(_HEADER) or ''} "
        opening = scanner.read_literal("<|channel|>", "<|constrain|>", "<|message|>")
        if not opening or opening == "<|message|>":
            break
    if opening != "<|message|>":
        return []
    recipient = _RECIPIENT.search(header)
    if recipient is None or not (recipient[1] or recipient[2] in tools):
        return []
    scanner.is_proven = True
    scanner.skip_blanks()
    calls = [ParsedCall(recipient[2], scanner.read_json())]
    scanner.skip_blanks()
    scanner.read_optional("<|call|>", "<|end|>")
    return calls


def _read_python_tag(scanner: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse Llama's format: JSON or a Python call. Other code after the tag stays text."""
    if not scanner.read_literal("<|python_tag|>"):
        return []
    scanner.skip_blanks()
    is_list = scanner.peek() == "["
    if is_list:
        scanner.position += 1
        scanner.skip_blanks()
    if scanner.peek() != "{":
        return parse_python_calls(scanner, tools, is_list=is_list)
    scanner.is_proven = True
    calls: list[ParsedCall] = []
    while True:
        call = parse_call(scanner.read_json())
        if call is None:
            raise scanner.make_error("it has no name, or its arguments are not a JSON object")
        calls.append(call)
        scanner.skip_blanks()
        if is_list:
            if scanner.read_literal(",", "]") != ",":
                return calls
            scanner.skip_blanks()
            continue
        if not scanner.read_optional(";"):
            return calls
        scanner.skip_blanks()
        if scanner.ended:
            return calls


def _read_pythonic(scanner: FormatScanner, tools: Tools) -> list[ParsedCall]:
    """Parse a list of Python calls."""
    marker = scanner.read_literal("<|tool_call_start|>")
    scanner.skip_blanks()
    if not (marker or scanner.starts_line) or not scanner.read_literal("["):
        return []
    calls = parse_python_calls(scanner, tools, is_list=True)
    if calls and marker:
        scanner.skip_blanks()
        scanner.read_optional("<|tool_call_end|>")
    return calls


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
        _read_invoke,
        _read_glm,
        _read_deepseek,
        _read_harmony,
        _read_python_tag,
        _read_pythonic,
        read_gemma,
    ),
    "`": (read_tool_code,),
    "[": (_read_mistral, _read_pythonic),
    "t": (_read_harmony,),
}
