"""The shapes in which models write tool calls.

- `<tool_call>{…}</tool_call>` (Hermes, Qwen), `<|tool_call|>[…]<|/tool_call|>` (Phi-4-mini)
- `functools[{…}]` (Phi-3.5), `[TOOL_CALLS] [{…}]` (Mistral)
- `<function=name>{…}</function>` (Llama)
- the same between `<tool_calls>`, `<function_call>`, `<functioncall>` and `<TOOLCALL>` tags
- JSON by itself at the start of a line, also in a fence, as one call or a list of them

A call is `{"name": …, "arguments" or "parameters": …}`, its arguments an object or one as text, or
OpenAI's `{"type": "function", "function": {…}}`. A marker is proof enough: what follows it is a
call, whatever its name, or a malformed one. JSON by itself is a call only if it has the shape of
one, nothing besides, and the name of a tool that was offered.
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


MAX_MARKER_LENGTH: Final = 64
"""Characters; a text is copied no further to see whether a marker begins."""


class MalformedCall(ValueError):
    """A call that cannot be read.

    Args:
        reason: What is wrong with it.
        text: What the model wrote.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.text = text


@dataclass(frozen=True, slots=True)
class TextWindow:
    """What is known of the text.

    Attributes:
        text: What came so far.
        position: The place that is looked at.
        is_final: Whether no more will come.
        starts_line: Whether nothing but blanks stands before it on its line.
    """

    text: str
    position: int
    is_final: bool
    starts_line: bool

    @property
    def rest(self) -> str:
        """The text from that place on, as far as a marker can reach."""
        return self.text[self.position : self.position + MAX_MARKER_LENGTH]


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A call as the model wrote it; most have no id."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class CallsFound:
    """Calls, and where in the text they end."""

    calls: tuple[ParsedCall, ...]
    end: int


@dataclass(frozen=True, slots=True)
class NotACall:
    """What is no call though it has the brackets of one, and where it ends.

    No part of it is looked at as a call if it is JSON.
    """

    end: int
    is_json: bool = True


class Incomplete:
    """What may become a call with more text."""


INCOMPLETE: Final = Incomplete()


def match_calls(
    window: TextWindow, names: Collection[str]
) -> CallsFound | Incomplete | NotACall | None:
    """Tell what stands at a place of the text: calls, what may become some, or neither.

    Where no more text comes, what may become a call is none.

    Raises:
        MalformedCall: A marked call cannot be read.
    """
    is_undecided = False
    not_a_call: NotACall | None = None
    for shape in _SHAPES.get(window.text[window.position], ()):
        match = shape(window, names)
        if isinstance(match, CallsFound):
            return match
        is_undecided = is_undecided or match is INCOMPLETE
        not_a_call = match if isinstance(match, NotACall) else not_a_call
    return INCOMPLETE if is_undecided else not_a_call


_TAGS: Final = {
    "<tool_call>": "</tool_call>",
    "<|tool_call|>": "<|/tool_call|>",
    "<tool_calls>": "</tool_calls>",
    "<function_call>": "</function_call>",
    "<functioncall>": "</functioncall>",
    "<TOOLCALL>": "</TOOLCALL>",
}
_END_MARKS: Final = (
    *(*_TAGS.values(), "</function>", "[/TOOL_CALLS]", "<|tool_call_end|>", "<|call|>", "<|end|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "</s>"),
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)
"""What models and engines leave behind a call, which says nothing."""
_BLANKS: Final = re.compile(r"[\s,;]*")
_TRAILING: Final = re.compile(r"[\s,;}\]]*")
"""What stands behind a call: some models close more brackets than they opened."""


def read_end_mark(window: TextWindow) -> CallsFound | Incomplete | None:
    """Tell whether the mark of an end stands at a place of the text behind a call."""
    rest = window.rest
    for mark in _END_MARKS:
        if rest.startswith(mark):
            return CallsFound((), window.position + len(mark))
    may_begin = any(mark.startswith(rest) for mark in _END_MARKS)
    return INCOMPLETE if may_begin and not window.is_final else None


def _match_tagged(window: TextWindow, names: Collection[str]) -> CallsFound | Incomplete | None:
    """One or more values between two tags, of which models forget the second."""
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
            return _require_calls(window, calls, position + len(closing))
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


def _require_calls(window: TextWindow, calls: list[ParsedCall], end: int) -> CallsFound:
    if not calls:
        raise MalformedCall(
            "there is no call between its markers", window.text[window.position : end]
        )
    return CallsFound(tuple(calls), end)


_LISTED: Final = re.compile(r"functools(?=\[\s*\{)|\[TOOL_CALLS\]\s*(?=[\[{])")
_LISTED_SO_FAR: Final = re.compile(r"functools\[\s*|\[TOOL_CALLS\]\s*")


def _match_listed(window: TextWindow, names: Collection[str]) -> CallsFound | Incomplete | None:
    """A list behind a word."""
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


_NAMED: Final = re.compile(r"<function=([^<>\s]+)>\s*(?=\{)")
_NAMED_SO_FAR: Final = re.compile(r"<function=[^<>\s]{0,64}(?:>\s*)?")
_NAMED_END: Final = "</function>"
_QUOTES: Final = "\"'"


def _match_named(window: TextWindow, names: Collection[str]) -> CallsFound | Incomplete | None:
    """Arguments between tags that have the name."""
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


_FENCE: Final = re.compile(r"```(?:json|tool_calls?)?[ \t]*\r?\n\s*")
_FENCE_SO_FAR: Final = re.compile(r"`{1,3}|```[a-z_]{0,10}[ \t]*\r?")


def _match_fenced(
    window: TextWindow, names: Collection[str]
) -> CallsFound | Incomplete | NotACall | None:
    """JSON in a fence."""
    if not window.starts_line:
        return None
    match = _FENCE.match(window.text, window.position)
    if not match:
        return INCOMPLETE if _FENCE_SO_FAR.fullmatch(window.text, window.position) else None
    calls_or_none = _match_unmarked(window, match.end(), names)
    if not isinstance(calls_or_none, CallsFound):
        return calls_or_none
    after = _skip(_TRAILING, window.text, calls_or_none.end)
    if window.text.startswith("```", after):
        return CallsFound(calls_or_none.calls, after + len("```"))
    if "```".startswith(window.text[after : after + MAX_MARKER_LENGTH]):
        return CallsFound(calls_or_none.calls, len(window.text)) if window.is_final else INCOMPLETE
    return None


def _match_bare(
    window: TextWindow, names: Collection[str]
) -> CallsFound | Incomplete | NotACall | None:
    """JSON by itself."""
    return _match_unmarked(window, window.position, names) if window.starts_line else None


_SHAPES: Final = {
    "<": (_match_tagged, _match_named),
    "f": (_match_listed,),
    "[": (_match_listed, _match_bare),
    "{": (_match_bare,),
    "`": (_match_fenced,),
}
"""By the character that they begin with."""

_KEYS: Final = frozenset({"name", "type", "function", "id", "arguments", "parameters"})
_ARGUMENT_KEYS: Final = ("arguments", "parameters", "args", "input")
_EXTRA_KEYS: Final = frozenset({"index", "description", "strict"})
_KEY_PREFIXES: Final = "|".join(
    sorted({key[:length] for key in _KEYS for length in range(1, len(key) + 1)}, reverse=True)
)
_CALL: Final = re.compile(rf'(?:\[\s*)?\{{\s*"(?:{"|".join(sorted(_KEYS))})"\s*:')
_CALL_SO_FAR: Final = re.compile(rf'(?:\[\s*)?(?:\{{\s*(?:"(?:(?:{_KEY_PREFIXES})(?:"\s*)?)?)?)?')
_NAME: Final = re.compile(r'(?:\[\s*)?\{\s*"name"\s*:\s*"([^"\\]*)"')


def _match_unmarked(
    window: TextWindow, position: int, names: Collection[str]
) -> CallsFound | Incomplete | NotACall | None:
    """A call or a list of them that nothing but its shape and its name tells from other JSON."""
    if not _CALL.match(window.text, position):
        return INCOMPLETE if _CALL_SO_FAR.fullmatch(window.text, position) else None
    named = _NAME.match(window.text, position)
    if named and named[1] not in names:
        return None
    end = find_value_end(window.text, position)
    if end is None:
        return INCOMPLETE
    try:
        items = _as_items(decode_json(window.text[position:end], ""))
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
    """The calls of a value that has to be one or more."""
    raw = window.text[window.position : end]
    if end is None:
        raise MalformedCall("it is not complete", raw)
    items = _as_items(decode_json(window.text[position:end], raw))
    if not items:
        raise MalformedCall("it is an empty list", raw)
    for item in items:
        call = parse_call(item)
        if call is None:
            raise MalformedCall("it has no name, or its arguments are not a JSON object", raw)
        yield call


def _as_items(value: Any) -> list[Any]:
    return value if is_list(value) else [value]


def parse_call(item: Any) -> ParsedCall | None:
    """The call that a JSON value is; None if it is none."""
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
    """A JSON value; models write line breaks into strings, which JSON does not allow."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise MalformedCall(f"it is not JSON: {error}", raw) from None


_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|["{}\[\]]|<[|/]', re.DOTALL)


def find_value_end(text: str, start: int, closing: str | None = None) -> int | None:
    """Where an object or a list ends; None if it does not end yet.

    Args:
        text: Holds it.
        start: Its bracket.
        closing: What ends it in any case, unless in a string.
    """
    depth = 0
    for token in _TOKEN.finditer(text, start):
        if token[0] in ("{", "["):
            depth += 1
        elif token[0] in ("}", "]"):
            depth -= 1
            if not depth:
                return token.end()
        elif token[0] == '"':
            return None
        elif closing and text.startswith(closing, token.start()):
            return token.start()
    return None


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position
