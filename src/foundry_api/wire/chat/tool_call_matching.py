"""Matches the notations of tool calls that are JSON, with or without markers.

- `<tool_call>{…}</tool_call>` (Hermes, Qwen), `<|tool_call|>[…]<|/tool_call|>` (Phi-4-mini)
- `functools[{…}]` (Phi-3.5), `[TOOL_CALLS] [{…}]` (Mistral)
- `<function=name>{…}</function>` (Llama)
- the same between `<tool_calls>`, `<function_call>`, `<functioncall>` and `<TOOLCALL>` tags
- JSON at the start of a line, also in a code fence, as one call or a list of them

A call is `{"name": …, "arguments" or "parameters": …}`, its arguments an object or text of one, or
OpenAI's `{"type": "function", "function": {…}}`. What follows a marker is a call, or malformed.
JSON without a marker is a call only if it has no other members, and the name of an offered tool.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foundry_api.types.values import is_list, is_object

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = [
    "INCOMPLETE",
    "MAX_MARKER_LENGTH",
    "CallsFound",
    "Incomplete",
    "MalformedCall",
    "NotACall",
    "ParsedCall",
    "TextWindow",
    "decode_json",
    "find_value_end",
    "match_calls",
    "parse_call",
    "read_end_mark",
]


MAX_MARKER_LENGTH: Final = 64  # characters that are compared with markers

_TAGS: Final = {
    "<tool_call>": "</tool_call>",
    "<|tool_call|>": "<|/tool_call|>",
    "<tool_calls>": "</tool_calls>",
    "<function_call>": "</function_call>",
    "<functioncall>": "</functioncall>",
    "<TOOLCALL>": "</TOOLCALL>",
    "<|action_start|><|plugin|>": "<|action_end|>",
}
# Left behind a call by models and engines, without any meaning.
_END_MARKS: Final = (
    *(*_TAGS.values(), "</function>", "[/TOOL_CALLS]", "<|tool_call_end|>", "<|call|>", "<|end|>"),
    *("</function_calls>", "</minimax:tool_call>", "</invoke>", "<tool_call|>", "<end_of_turn>"),
    *("<start_function_response>", "<end_function_call>", "<|tool_response>"),
    *("<|eom_id|>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "</s>"),
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)

_BLANKS: Final = re.compile(r"[\s,;]*")
_TRAILING: Final = re.compile(r"[\s,;}\]]*")  # some models close more brackets than they opened
_QUOTES: Final = "\"'"

# For each notation its beginning, and what may become one with more text.
_LISTED: Final = re.compile(r"functools(?=\[\s*\{)|\[TOOL_CALLS\]\s*(?=[\[{])")
_LISTED_SO_FAR: Final = re.compile(r"functools\[\s*|\[TOOL_CALLS\]\s*")

_NAMED: Final = re.compile(r"<function=([^<>\s]+)>\s*(?=\{)")
_NAMED_SO_FAR: Final = re.compile(r"<function=[^<>\s]{0,64}(?:>\s*)?")
_NAMED_END: Final = "</function>"

_FENCE: Final = re.compile(r"```(?:json|tool_calls?|tool_code)?[ \t]*\r?\n\s*")
_FENCE_SO_FAR: Final = re.compile(r"`{1,3}|```[a-z_]{0,10}[ \t]*\r?")

# The members of a call, other names for its arguments, and members that some models add.
_KEYS: Final = frozenset({"name", "type", "function", "id", "arguments", "parameters"})
_ARGUMENT_KEYS: Final = ("arguments", "parameters", "args", "input")
_EXTRA_KEYS: Final = frozenset({"index", "description", "strict"})
_KEY_PREFIXES: Final = "|".join(
    sorted({key[:length] for key in _KEYS for length in range(1, len(key) + 1)}, reverse=True)
)
_CALL: Final = re.compile(rf'(?:\[\s*)?\{{\s*"(?:{"|".join(sorted(_KEYS))})"\s*:')
_CALL_SO_FAR: Final = re.compile(rf'(?:\[\s*)?(?:\{{\s*(?:"(?:(?:{_KEY_PREFIXES})(?:"\s*)?)?)?)?')
_NAME: Final = re.compile(r'(?:\[\s*)?\{\s*"name"\s*:\s*"([^"\\]*)"')

# Strings (possessive, so that the work stays linear), brackets, and what may begin an end tag.
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|["{}\[\]]|<[|/]', re.DOTALL)


class MalformedCall(ValueError):
    """A tool call that cannot be read: the reason, and the text that the model wrote."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.text = text


@dataclass(frozen=True, slots=True)
class TextWindow:
    """A position in the text that has arrived so far."""

    text: str
    position: int
    is_final: bool  # whether the text is complete
    starts_line: bool  # whether only white space precedes the position on its line

    @property
    def rest(self) -> str:
        """The text from the position on, at most as long as a marker."""
        return self.text[self.position : self.position + MAX_MARKER_LENGTH]


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A call as the model wrote it."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None  # few models write one


@dataclass(frozen=True, slots=True)
class CallsFound:
    """Calls, and the position where they end."""

    calls: tuple[ParsedCall, ...]
    end: int


@dataclass(frozen=True, slots=True)
class NotACall:
    """A value in brackets that is not a call, and the position where it ends."""

    end: int
    is_json: bool = True  # if so, no part of it is a call either


class Incomplete:
    """Text that may become a call when more arrives."""


INCOMPLETE: Final = Incomplete()


def match_calls(
    window: TextWindow, names: Collection[str]
) -> CallsFound | Incomplete | NotACall | None:
    """Return the calls at a position, INCOMPLETE for what may become some, or neither."""
    is_undecided = False
    not_a_call: NotACall | None = None
    for matcher in _MATCHERS.get(window.text[window.position], ()):
        match = matcher(window, names)
        if isinstance(match, CallsFound):
            return match
        is_undecided = is_undecided or match is INCOMPLETE
        not_a_call = match if isinstance(match, NotACall) else not_a_call
    return INCOMPLETE if is_undecided else not_a_call


def read_end_mark(window: TextWindow) -> CallsFound | Incomplete | None:
    """Match an end mark after a call, as if it were a call itself."""
    rest = window.rest
    for mark in _END_MARKS:
        if rest.startswith(mark):
            return CallsFound((), window.position + len(mark))
    may_begin = any(mark.startswith(rest) for mark in _END_MARKS)
    return INCOMPLETE if may_begin and not window.is_final else None


def parse_call(item: Any) -> ParsedCall | None:
    """Return the call in a JSON value, or None if it is not a call."""
    if not is_object(item):
        return None
    function: Any = item.get("function", item)
    inner: Any = {**item, "name": function} if isinstance(function, str) else function
    if not is_object(inner):
        return None
    name, call_id = inner.get("name"), item.get("id")
    argument_values = [inner[key] for key in _ARGUMENT_KEYS if key in inner]
    if not argument_values and not inner.keys() <= _KEYS | _EXTRA_KEYS:
        return None  # its arguments would be lost
    arguments: Any = (argument_values[0] if argument_values else None) or {}
    if isinstance(arguments, str):
        try:
            arguments = decode_json(arguments, "")
        except MalformedCall:
            return None
    if not (name and isinstance(name, str) and is_object(arguments)):
        return None
    return ParsedCall(name, arguments, call_id if isinstance(call_id, str) and call_id else None)


def decode_json(text: str, raw: str) -> Any:
    try:
        # Not strict: models write line breaks into strings.
        return json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise MalformedCall(f"it is not JSON: {error}", raw) from None


def find_value_end(text: str, start: int, closing: str | None = None) -> int | None:
    """Return where an object or list ends, at the latest at `closing`; None if it has no end."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        if token[0] in ("{", "["):
            depth += 1
        elif token[0] in ("}", "]"):
            depth -= 1
            if not depth:
                return token.end()
        elif token[0] == '"':  # a string without an end
            return None
        elif closing and text.startswith(closing, token.start()):
            return token.start()
    return None


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _match_tagged(window: TextWindow, names: Collection[str]) -> CallsFound | Incomplete | None:
    """Match values between two tags. Models often forget the second tag."""
    del names
    rest = window.rest
    for opening, closing in _TAGS.items():
        if rest.startswith(opening):
            return _match_until(window, window.position + len(opening), closing)
    return INCOMPLETE if any(opening.startswith(rest) for opening in _TAGS) else None


def _match_until(window: TextWindow, position: int, closing: str) -> CallsFound | Incomplete | None:
    calls: list[ParsedCall] = []
    while True:
        position = _skip(_TRAILING if calls else _BLANKS, window.text, position)
        rest = window.text[position : position + len(closing)]
        if rest == closing:
            position += len(closing)
            if not calls:
                raw = window.text[window.position : position]
                raise MalformedCall("there is no call between its markers", raw)
            return CallsFound(tuple(calls), position)
        if closing.startswith(rest):
            if not window.is_final:
                return INCOMPLETE
            return CallsFound(tuple(calls), len(window.text)) if calls else None
        if rest[:1] not in ("{", "["):
            return CallsFound(tuple(calls), position) if calls else None
        end = find_value_end(window.text, position, closing)
        if end is None and not window.is_final:
            return INCOMPLETE
        calls += _match_marked(window, position, end)
        position = end or len(window.text)


def _match_listed(window: TextWindow, names: Collection[str]) -> CallsFound | Incomplete | None:
    """Match a list after a word."""
    del names
    if match := _LISTED.match(window.text, window.position):
        end = find_value_end(window.text, match.end())
        if end is None and not window.is_final:
            return INCOMPLETE
        return CallsFound(tuple(_match_marked(window, match.end(), end)), end or len(window.text))
    may_begin = any(word.startswith(window.rest) for word in ("functools[", "[TOOL_CALLS]"))
    return (
        INCOMPLETE if may_begin or _LISTED_SO_FAR.fullmatch(window.text, window.position) else None
    )


def _match_named(window: TextWindow, names: Collection[str]) -> CallsFound | Incomplete | None:
    """Match arguments between tags with the name of the function."""
    del names
    match = _NAMED.match(window.text, window.position)
    if not match:
        may_begin = "<function=".startswith(window.rest)
        return (
            INCOMPLETE
            if may_begin or _NAMED_SO_FAR.fullmatch(window.text, window.position)
            else None
        )
    end = find_value_end(window.text, match.end(), _NAMED_END)
    if end is None and not window.is_final:
        return INCOMPLETE
    raw = window.text[window.position : end]
    call = parse_call(
        {
            "name": match[1].strip(_QUOTES),
            "arguments": decode_json(window.text[match.end() : end], raw),
        }
    )
    if call is None:
        raise MalformedCall("its arguments are not a JSON object", raw)
    end = end or len(window.text)
    after = _skip(_TRAILING, window.text, end)
    if window.text.startswith(_NAMED_END, after):
        return CallsFound((call,), after + len(_NAMED_END))
    if not window.is_final and _NAMED_END.startswith(
        window.text[after : after + MAX_MARKER_LENGTH]
    ):
        return INCOMPLETE
    return CallsFound((call,), end)


def _match_fenced(
    window: TextWindow, names: Collection[str]
) -> CallsFound | Incomplete | NotACall | None:
    """Match JSON in a code fence."""
    if not window.starts_line:
        return None
    match = _FENCE.match(window.text, window.position)
    if not match:
        return INCOMPLETE if _FENCE_SO_FAR.fullmatch(window.text, window.position) else None
    result = _match_unmarked(window, match.end(), names)
    if not isinstance(result, CallsFound):
        return result
    after = _skip(_TRAILING, window.text, result.end)
    if window.text.startswith("```", after):
        return CallsFound(result.calls, after + len("```"))
    if "```".startswith(window.text[after : after + MAX_MARKER_LENGTH]):
        return CallsFound(result.calls, len(window.text)) if window.is_final else INCOMPLETE
    return None


def _match_bare(
    window: TextWindow, names: Collection[str]
) -> CallsFound | Incomplete | NotACall | None:
    """Match JSON without any marker."""
    return _match_unmarked(window, window.position, names) if window.starts_line else None


def _match_unmarked(
    window: TextWindow, position: int, names: Collection[str]
) -> CallsFound | Incomplete | NotACall | None:
    """Match JSON that only its members and its name distinguish from other JSON."""
    if not _CALL.match(window.text, position):
        return INCOMPLETE if _CALL_SO_FAR.fullmatch(window.text, position) else None
    name = _NAME.match(window.text, position)
    if name and name[1] not in names:
        return None
    end = find_value_end(window.text, position)
    if end is None:
        return INCOMPLETE
    try:
        items = _make_list(decode_json(window.text[position:end], ""))
    except MalformedCall:
        return NotACall(end, is_json=False)
    calls = [parse_call(item) for item in items if _has_only_call_keys(item)]
    offered = [call for call in calls if call and call.name in names]
    return (
        CallsFound(tuple(offered), end) if offered and len(offered) == len(items) else NotACall(end)
    )


def _has_only_call_keys(item: Any) -> bool:
    if not is_object(item) or not item.keys() <= _KEYS:
        return False
    function = item.get("function")
    inner = function if is_object(function) else item
    return "arguments" in inner or "parameters" in inner


def _match_marked(window: TextWindow, position: int, end: int | None) -> Iterator[ParsedCall]:
    """Yield the calls of a value after a marker, which has to be a call or a list of them."""
    raw = window.text[window.position : end]
    if end is None:
        raise MalformedCall("it is not complete", raw)
    items = _make_list(decode_json(window.text[position:end], raw))
    if not items:
        raise MalformedCall("it is an empty list", raw)
    for item in items:
        call = parse_call(item)
        if call is None:
            raise MalformedCall("it has no name, or its arguments are not a JSON object", raw)
        yield call


def _make_list(value: Any) -> list[Any]:
    return value if is_list(value) else [value]


# By the first character of the notation.
_MATCHERS: Final = {
    "<": (_match_tagged, _match_named),
    "f": (_match_listed,),
    "[": (_match_listed, _match_bare),
    "{": (_match_bare,),
    "`": (_match_fenced,),
}
