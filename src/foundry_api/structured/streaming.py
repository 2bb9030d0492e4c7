"""Parse and validate streamed answers.

Chunks that the caller has received cannot be taken back, so streams are not repaired.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.structured.errors import ValidationFailed
from foundry_api.structured.partial_json import MISSING
from foundry_api.types.errors import StructuredOutputError
from foundry_api.types.messages import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from foundry_api.structured.output_spec import OutputSpec
    from foundry_api.types.messages import Chunk

__all__ = ["parse_chunks"]


async def parse_chunks(chunks: AsyncGenerator[Chunk], spec: OutputSpec) -> AsyncGenerator[Chunk]:
    """Yield the chunks with `partial`, and the last one with `parsed`.

    Raises StructuredOutputError in place of the last chunk if the answer is invalid or was cut.
    """
    partial_json = spec.partial_parser()
    pieces: list[str] = []
    partial: Any = None
    has_tool_calls = False
    async with aclosing(chunks):
        async for chunk in chunks:
            parsed = None
            has_tool_calls = has_tool_calls or bool(chunk.tool_calls)
            try:
                if chunk.content:
                    pieces.append(chunk.content)
                    if spec.chunk_parser is not None:
                        partial = spec.parse_chunk(chunk)
                    elif partial_json is not None:
                        partial = _missing_to_none(partial_json.feed(chunk.content))
                # With tool calls, the answer follows when they have been made.
                if chunk.finish_reason is not None and not has_tool_calls:
                    if partial_json is not None:
                        partial = _missing_to_none(partial_json.finish())
                    parsed = await spec.validate_answer("".join(pieces), chunk.finish_reason)
            except ValidationFailed as error:
                usage = chunk.usage or Usage()
                raise StructuredOutputError(
                    error.message,
                    errors=error.errors,
                    hint=error.hint,
                    finish_reason=chunk.finish_reason,
                    prompt_tokens=usage.prompt_tokens,
                    completion_tokens=usage.completion_tokens,
                    model=chunk.model,
                    attempts=len(chunk.attempts),
                    partial="".join(pieces),
                ) from error.cause
            yield msgspec.structs.replace(chunk, partial=partial, parsed=parsed)


def _missing_to_none(value: Any) -> Any:
    return None if value is MISSING else value
