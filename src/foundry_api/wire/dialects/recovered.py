"""Tool calls out of the text, for a request that offers tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.errors import StreamInterrupted, ToolCallError
from foundry_api.messages import Chunk, ToolCall
from foundry_api.wire.dialects.call_shapes import MalformedCall
from foundry_api.wire.dialects.openai import offers_tools
from foundry_api.wire.dialects.text_calls import CallFinder
from foundry_api.wire.failures import NOT_JSON

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from foundry_api.messages import ChatRequest, FinishReason
    from foundry_api.wire.dialects.base import ChatDecoder, Ending

__all__ = ["Recovered", "recovering"]


def recovering(stream: ChatDecoder, model_id: str, request: ChatRequest) -> ChatDecoder:
    """A decoder that finds calls in the text where the model was offered tools."""
    if not offers_tools(request):
        return stream
    tools = {tool.name: tool.parameters for tool in request.tools}
    return Recovered(stream, model_id, tools)


class Recovered:
    """A decoder that finds the calls that a model wrote as text.

    Text that may be the beginning of a call is held back until that is clear. A call that the
    service found too, as 1.x does behind the same text, is told once.

    Args:
        stream: Decodes the events.
        model_id: The model that answers.
        tools: The names of the tools that were offered, with the JSON schemas of their arguments.
    """

    def __init__(
        self,
        stream: ChatDecoder,
        model_id: str,
        tools: Collection[str] | Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._stream = stream
        self._model_id = model_id
        self._finder = CallFinder(tools)
        self._raw: list[bytes] = []
        self._written: list[tuple[str, object]] = []
        self._said = False
        self._called = False
        self.done = False

    @property
    def pieces(self) -> int:
        """Pieces of the answer that came, those that are held back included."""
        return self._stream.pieces

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """The pieces that this block completes, without what may yet be a call.

        Raises:
            ToolCallError: A call cannot be read.
        """
        try:
            for chunk in self._stream.feed(block):
                yield from self._passed(chunk)
        except Exception:
            if held := self._finder.release():  # the text ahead of an error is the caller's
                yield self._chunk(held)
            raise
        if self._stream.done:
            yield from self._found(self._finder.finish())
            self.done = True

    def finish(self) -> Ending:
        """How the answer ended.

        Raises:
            ToolCallError: The service kept all of the answer to itself, as 2.0 does in a stream
                where the model called a tool in a way that it cannot read.
        """
        ending = self._stream.finish()
        if self._called and ending.finish_reason == "stop":
            return msgspec.structs.replace(ending, finish_reason="tool_calls")
        withheld = ending.usage.completion_tokens
        if withheld > 1 and not self._said and not self._called and not ending.early:
            raise ToolCallError(
                f"the service sent nothing of an answer of {withheld} tokens, which it took for a "
                "call of a tool that cannot be read"
            )
        return ending

    def _passed(self, chunk: Chunk) -> Iterator[Chunk]:
        if chunk.content:
            self._raw.append(chunk.raw)
            yield from self._found(self._finder.feed(chunk.content))
        elif chunk.tool_calls:
            yield from self._native(chunk)
        else:
            self._said = True
            yield chunk

    def _native(self, chunk: Chunk) -> Iterator[Chunk]:
        calls = tuple(call for call in chunk.tool_calls if not self._is_told(call))
        for call in calls:
            self._check_end(call)
        if calls:
            self._called = True
            yield msgspec.structs.replace(chunk, tool_calls=calls)

    def _check_end(self, call: ToolCall) -> None:
        """Refuse a call whose arguments were cut.

        Raises:
            ToolCallError: They were, at the greatest length of the answer.
        """
        if self._finish_reason() == "length" and isinstance(_meaning(call)[1], str):
            text = call.function.arguments
            raise _cut(f"the arguments of {call.function.name} are not complete", text)

    def _finish_reason(self) -> FinishReason | None:
        try:
            return self._stream.finish().finish_reason
        except StreamInterrupted:
            return None

    def _is_told(self, call: ToolCall) -> bool:
        meaning = _meaning(call)
        if meaning not in self._written:
            return False
        self._written.remove(meaning)
        return True

    def _found(self, pieces: Iterator[str | ToolCall]) -> Iterator[Chunk]:
        try:
            for piece in pieces:
                yield self._chunk(piece)
        except MalformedCall as error:
            self._finder.release()
            if self._stream.done and self._finish_reason() == "length":
                raise _cut(error.reason, error.text) from error
            raise ToolCallError(
                f"the model's call of a tool cannot be read: {error.reason}", text=error.text
            ) from error

    def _chunk(self, piece: str | ToolCall) -> Chunk:
        raw, self._raw = b"\n".join(self._raw), []
        if isinstance(piece, str):
            self._said = True
            return Chunk(piece, self._model_id, raw=raw)
        self._called = True
        self._written.append(_meaning(piece))
        return Chunk("", self._model_id, raw=raw, tool_calls=(piece,))


def _cut(reason: str, text: str) -> ToolCallError:
    return ToolCallError(
        f"the model's call of a tool was cut at the greatest length of the answer: {reason}",
        text=text,
        finish_reason="length",
    )


def _meaning(call: ToolCall) -> tuple[str, object]:
    """What a call says, however it is written."""
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}")
    except NOT_JSON:
        arguments = call.function.arguments
    return call.function.name, arguments
