"""The chunks of an answer with the value so far, and at its end the whole value.

What was streamed cannot be taken back, so a stream is not asked for again.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.structured.partial_json import NOTHING
from foundry_api.structured.refusal import Refused
from foundry_api.structured.repair import checked, refusal_cause, refusal_hint, refusal_message
from foundry_api.types.errors import StructuredOutputError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from foundry_api.structured.expectation import Expectation
    from foundry_api.types.messages import Chunk

__all__ = ["parsed_chunks"]


async def parsed_chunks(
    chunks: AsyncGenerator[Chunk], expectation: Expectation
) -> AsyncGenerator[Chunk]:
    """The same chunks, with `partial` and on the last one `parsed`.

    Args:
        chunks: As they come from the service.
        expectation: What the answer has to be.

    Raises:
        StructuredOutputError: The answer does not pass, or was cut; in place of the last chunk.
    """
    reader = _Reader(expectation)
    async with aclosing(chunks):
        async for chunk in chunks:
            try:
                piece = await reader.read(chunk)
            except Refused as error:
                raise reader.failure(chunk, error) from refusal_cause(error)
            yield piece


class _Reader:
    """Reads one stream.

    Args:
        expectation: What the answer has to be.
    """

    def __init__(self, expectation: Expectation) -> None:
        self._expectation = expectation
        self._json = expectation.reader()
        self._text: list[str] = []
        self._partial: Any = None
        self._calls_tools = False

    async def read(self, chunk: Chunk) -> Chunk:
        """The chunk with what it adds.

        Raises:
            Refused: The answer does not pass.
        """
        self._calls_tools = self._calls_tools or bool(chunk.tool_calls)
        if chunk.content:
            self._text.append(chunk.content)
            self._partial = self._value(chunk)
        parsed = None
        if chunk.finish_reason is not None and not self._calls_tools:
            self._partial = self._partial if self._json is None else _or_none(self._json.finish())
            parsed = await checked("".join(self._text), chunk.finish_reason, self._expectation)
        return msgspec.structs.replace(chunk, partial=self._partial, parsed=parsed)

    def failure(self, chunk: Chunk, error: Refused) -> StructuredOutputError:
        """What the caller is told."""
        return StructuredOutputError(
            refusal_message(error),
            errors=error.errors,
            hint=refusal_hint(error),
            finish_reason=chunk.finish_reason,
            model=chunk.model,
            attempts=len(chunk.attempts),
            partial="".join(self._text),
        )

    def _value(self, chunk: Chunk) -> Any:
        if self._expectation.chunk_parser is not None:
            return self._expectation.partial(chunk)
        return None if self._json is None else _or_none(self._json.feed(chunk.content))


def _or_none(value: Any) -> Any:
    return None if value is NOTHING else value
