"""Finds tool calls that a model wrote as text, while the text arrives.

Some engines leave all tool calls in the text, others those that a model writes in an unexpected
format (issues 874, 346 and 142).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from foundry_api.types.errors import StreamInterrupted, ToolCallError
from foundry_api.types.messages import Chunk, FunctionCall, ToolCall
from foundry_api.wire.chat.events import make_call_id
from foundry_api.wire.chat.tool_call_formats import read_format
from foundry_api.wire.chat.tool_call_matching import (
    INCOMPLETE,
    CallsFound,
    Incomplete,
    MalformedCall,
    NotACall,
    TextWindow,
    match_calls,
    read_end_mark,
)
from foundry_api.wire.errors import NOT_JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from foundry_api.types.messages import FinishReason
    from foundry_api.wire.chat.events import ChatDecoder, StreamEnd

__all__ = [
    "MalformedCall",
    "ToolCallParser",
    "ToolCallRecovery",
    "make_call_id",
]


# Characters of one call. No text is held back for longer.
MAX_PENDING: Final = 256 * 1024

# A call is parsed from its beginning each time. From this many characters on, that is repeated
# only when it has grown by a sixteenth, which keeps the work linear.
THROTTLE_FROM: Final = 1024

# JSON that is invalid or never ends is read to its end for each possible beginning within it. After
# so many beginnings or characters, JSON without a marker no longer counts as a call.
MAX_INVALID_STARTS: Final = 32
MAX_INVALID_CHARACTERS: Final = 512 * 1024

# The beginning of a call, or of an end marker.
_POSSIBLE_CALL: Final = re.compile(
    r"[{\[`]"
    r"|<(?=tool_call|function|TOOLCALL|invoke|minimax:|start_function|end_|/"
    r"|\|(?:tool_|action_start|channel|start|python|call|e|im|/)"
    r"|\uff5c(?:tool|end)|[^<>\s]{0,40}\Z)"
    r"|f(?=unctools|u?n?c?t?o?o?l?s?\Z)|t(?=o=|o?\Z)"
)

_TRAILING_NOISE: Final = "}] \t\r\n\f\v"
_WITHIN_LINE: Final = re.compile(r"[<f]|\[(?=T|\Z)")  # a call that may follow other text on a line


class ToolCallRecovery:
    """A decoder that also yields the tool calls that a model wrote as text."""

    def __init__(
        self,
        stream: ChatDecoder,
        model_id: str,
        tools: Collection[str] | Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._stream = stream
        self._model_id = model_id
        self._finder = ToolCallParser(tools)
        self._raw: list[bytes] = []
        self._parsed_calls: list[tuple[str, object]] = []
        self._has_text = False
        self._has_calls = False
        self.done = False

    @property
    def chunk_count(self) -> int:
        return self._stream.chunk_count

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """Yield the chunks that this block completes."""
        try:
            for chunk in self._stream.feed(block):
                if chunk.content:
                    self._raw.append(chunk.raw)
                    yield from self._process_pieces(self._finder.feed(chunk.content))
                elif chunk.tool_calls:
                    yield from self._process_native_calls(chunk)
                else:
                    self._has_text = True
                    yield chunk
        except Exception:
            if pending := self._finder.flush():  # the caller gets the text before the error
                yield self._make_chunk(pending)
            raise
        if self._stream.done:
            yield from self._process_pieces(self._finder.finish())
            self.done = True

    def finish(self) -> StreamEnd:
        ending = self._stream.finish()
        if self._has_calls and ending.finish_reason == "stop":
            return msgspec.structs.replace(ending, finish_reason="tool_calls")
        # SDK 2.0 sends nothing of an answer in which the model called a tool in a format that
        # it cannot parse.
        withheld = ending.usage.completion_tokens
        if withheld > 1 and not self._has_text and not self._has_calls and not ending.stopped_early:
            raise ToolCallError(
                f"the service sent nothing of an answer of {withheld} tokens, which it took for a "
                "tool call that cannot be read"
            )
        return ending

    def _process_native_calls(self, chunk: Chunk) -> Iterator[Chunk]:
        """Yield the calls that the service found itself."""
        calls: list[ToolCall] = []
        for call in chunk.tool_calls:
            name, arguments = signature = _make_signature(call)
            if signature in self._parsed_calls:
                # SDK 1.x sends a call after the text in which it was found already.
                self._parsed_calls.remove(signature)
                continue
            if isinstance(arguments, str) and self._get_finish_reason() == "length":
                raise _make_truncation_error(
                    f"the arguments of {name} are not complete", call.function.arguments
                )
            calls.append(call)
        if calls:
            self._has_calls = True
            yield msgspec.structs.replace(chunk, tool_calls=tuple(calls))

    def _get_finish_reason(self) -> FinishReason | None:
        try:
            return self._stream.finish().finish_reason
        except StreamInterrupted:
            return None

    def _process_pieces(self, pieces: Iterator[str | ToolCall]) -> Iterator[Chunk]:
        try:
            for piece in pieces:
                yield self._make_chunk(piece)
        except MalformedCall as error:
            self._finder.flush()
            if self._stream.done and self._get_finish_reason() == "length":
                raise _make_truncation_error(error.reason, error.text) from error
            raise ToolCallError(
                f"the model's tool call cannot be read: {error.reason}", text=error.text
            ) from error

    def _make_chunk(self, piece: str | ToolCall) -> Chunk:
        raw, self._raw = b"\n".join(self._raw), []
        if isinstance(piece, str):
            self._has_text = True
            return Chunk(piece, self._model_id, raw=raw)
        self._has_calls = True
        self._parsed_calls.append(_make_signature(piece))
        return Chunk("", self._model_id, raw=raw, tool_calls=(piece,))


class ToolCallParser:
    """Separates tool calls from text, and holds text back that may be the beginning of a call.

    `tools` are the names of the offered tools. With the JSON schemas of their arguments, values
    that are written as plain text get the right type.
    """

    def __init__(
        self,
        tools: Collection[str] | Mapping[str, Mapping[str, Any]],
        *,
        new_id: Callable[[], str] = make_call_id,
    ) -> None:
        self._tools: Mapping[str, Mapping[str, Any]] = (
            cast("Mapping[str, Mapping[str, Any]]", tools)
            if isinstance(tools, Mapping)
            else {name: {} for name in tools}
        )
        self._new_id = new_id
        self._pending = ""
        self._line_is_blank = True
        self._after_call = False
        self._new_text: list[str] = []
        self._skip_characters = 0
        self._invalid_starts = 0
        self._invalid_characters = 0

    def feed(self, text: str) -> Iterator[str | ToolCall]:
        """Yield the text and the calls that this piece completes.

        A MalformedCall for a call that cannot be read is raised after the text before it.
        """
        self._new_text.append(text)
        self._skip_characters -= len(text)
        if self._skip_characters <= 0:
            yield from self._parse(is_final=False)

    def finish(self) -> Iterator[str | ToolCall]:
        """Yield the rest at the end of the text."""
        yield from self._parse(is_final=True)

    def flush(self) -> str:
        """Return the text that is held back, without parsing it."""
        pending, self._pending = self._pending + "".join(self._new_text), ""
        self._new_text.clear()
        return pending

    def _parse(self, *, is_final: bool) -> Iterator[str | ToolCall]:
        text = self._pending + "".join(self._new_text)
        self._new_text.clear()
        start = position = scanned = 0
        try:
            while match := _POSSIBLE_CALL.search(text, position):
                position = match.start()
                self._line_is_blank = _is_blank_line(text[scanned:position], self._line_is_blank)
                scanned = position
                if not (self._starts_line or _WITHIN_LINE.match(text, position)):
                    position += 1
                    continue
                try:
                    match_result = self._match_at(text, position, is_final=is_final)
                    calls = (
                        self._make_calls(match_result, text, position)
                        if isinstance(match_result, CallsFound)
                        else ()
                    )
                except MalformedCall:
                    yield from self._emit_text(text[start:position])
                    start = position
                    raise
                if isinstance(match_result, CallsFound):
                    yield from self._emit_text(text[start:position])
                    yield from calls
                    start = position = scanned = match_result.end
                    self._line_is_blank = self._after_call = True
                elif match_result is INCOMPLETE:
                    yield from self._emit_text(text[start:position])
                    start = position
                    self._skip_characters = max(0, len(text) - position - THROTTLE_FROM) // 16
                    return
                else:
                    position = (
                        match_result.end if isinstance(match_result, NotACall) else position + 1
                    )
            self._line_is_blank = _is_blank_line(text[scanned:], self._line_is_blank)
            yield from self._emit_text(text[start:])
            start = len(text)
        finally:  # also if the caller stops iterating
            self._pending = text[start:]

    @property
    def _starts_line(self) -> bool:
        """Whether JSON without a marker can be a call here."""
        return (
            self._line_is_blank
            and self._invalid_starts < MAX_INVALID_STARTS
            and self._invalid_characters < MAX_INVALID_CHARACTERS
        )

    def _match_at(
        self, text: str, position: int, *, is_final: bool
    ) -> CallsFound | Incomplete | NotACall | None:
        is_final = is_final or len(text) - position > MAX_PENDING
        window = TextWindow(text, position, is_final, self._starts_line)
        if self._after_call and (end_mark := read_end_mark(window)) is not None:
            return end_mark
        match_result: CallsFound | Incomplete | NotACall | None = read_format(window, self._tools)
        if not isinstance(match_result, CallsFound):
            shape_result = match_calls(window, self._tools)
            if match_result is None or isinstance(shape_result, CallsFound):
                match_result = shape_result
        invalid_end = None
        if match_result is INCOMPLETE and is_final:
            invalid_end = len(text)
        elif isinstance(match_result, NotACall) and not match_result.is_json:
            invalid_end = match_result.end
        if invalid_end is not None:
            self._invalid_starts += 1
            self._invalid_characters += invalid_end - position
            return None
        return match_result

    def _make_calls(self, match_result: CallsFound, text: str, position: int) -> list[ToolCall]:
        calls: list[ToolCall] = []
        for call in match_result.calls:
            try:
                arguments = json.dumps(
                    call.arguments, ensure_ascii=False, allow_nan=False, separators=(",", ":")
                )
            except (ValueError, RecursionError) as error:  # infinity, or nested too deeply
                reason = f"its arguments are not JSON: {error}"
                raise MalformedCall(reason, text[position : match_result.end]) from None
            # A lone surrogate cannot be encoded as UTF-8, so it becomes U+FFFD.
            utf16 = arguments.encode("utf-16-le", "surrogatepass")
            function = FunctionCall(call.name, utf16.decode("utf-16-le", "replace"))
            calls.append(ToolCall(call.id or self._new_id(), function))
        return calls

    def _emit_text(self, text: str) -> Iterator[str]:
        # White space and spare brackets after a call mean nothing.
        text = text.lstrip(_TRAILING_NOISE) if self._after_call else text
        if text:
            self._after_call = False
            yield text


def _is_blank_line(text: str, was_blank: bool) -> bool:  # noqa: FBT001 - a state, not an option
    """Return whether the last line of the text is blank so far."""
    _, line_break, line = text.rpartition("\n")
    return not line.strip() and (bool(line_break) or was_blank)


def _make_truncation_error(reason: str, text: str) -> ToolCallError:
    return ToolCallError(
        f"the model's tool call was truncated at the maximum length of the answer: {reason}",
        text=text,
        finish_reason="length",
    )


def _make_signature(call: ToolCall) -> tuple[str, object]:
    """Return name and decoded arguments, which are equal for calls that differ in notation."""
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}")
    except NOT_JSON:
        arguments = call.function.arguments
    return call.function.name, arguments
