"""The chunks of an answer with the value so far, and at its end the whole value.

What was streamed cannot be taken back, so a stream is not asked for again.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.structured.partial_json import MISSING
from foundry_api.structured.refusal import ValidationFailed
from foundry_api.structured.repair import (
    get_failure_cause,
    get_failure_hint,
    get_failure_message,
    validate_answer,
)
from foundry_api.types.errors import StructuredOutputError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from foundry_api.structured.expectation import OutputSpec
    from foundry_api.types.messages import Chunk

__all__ = ["parse_chunks"]


async def parse_chunks(chunks: AsyncGenerator[Chunk], spec: OutputSpec) -> AsyncGenerator[Chunk]:
    """The same chunks, with `partial` and on the last one `parsed`.

    Args:
        chunks: As they come from the service.
        spec: What the answer has to be.

    Raises:
        StructuredOutputError: The answer does not pass, or was cut; in place of the last chunk.
    """
    reader = _StreamParser(spec)
    async with aclosing(chunks):
        async for chunk in chunks:
            try:
                parsed_chunk = await reader.parse(chunk)
            except ValidationFailed as error:
                raise reader.make_error(chunk, error) from get_failure_cause(error)
            yield parsed_chunk


class _StreamParser:
    """Reads one stream.

    Args:
        expectation: What the answer has to be.
    """

    def __init__(self, spec: OutputSpec) -> None:
        self._spec = spec
        self._partial_json = spec.partial_parser()
        self._text: list[str] = []
        self._partial: Any = None
        self._calls_tools = False

    async def parse(self, chunk: Chunk) -> Chunk:
        """The chunk with what it adds.

        Raises:
            ValidationFailed: The answer does not pass.
        """
        self._calls_tools = self._calls_tools or bool(chunk.tool_calls)
        if chunk.content:
            self._text.append(chunk.content)
            self._partial = self._parse_partial(chunk)
        parsed = None
        if chunk.finish_reason is not None and not self._calls_tools:
            self._partial = (
                self._partial
                if self._partial_json is None
                else _missing_to_none(self._partial_json.finish())
            )
            parsed = await validate_answer("".join(self._text), chunk.finish_reason, self._spec)
        return msgspec.structs.replace(chunk, partial=self._partial, parsed=parsed)

    def make_error(self, chunk: Chunk, error: ValidationFailed) -> StructuredOutputError:
        """What the caller is told."""
        return StructuredOutputError(
            get_failure_message(error),
            errors=error.errors,
            hint=get_failure_hint(error),
            finish_reason=chunk.finish_reason,
            model=chunk.model,
            attempts=len(chunk.attempts),
            partial="".join(self._text),
        )

    def _parse_partial(self, chunk: Chunk) -> Any:
        if self._spec.chunk_parser is not None:
            return self._spec.parse_chunk(chunk)
        return (
            None
            if self._partial_json is None
            else _missing_to_none(self._partial_json.feed(chunk.content))
        )


def _missing_to_none(value: Any) -> Any:
    return None if value is MISSING else value
