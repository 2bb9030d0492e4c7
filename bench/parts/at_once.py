"""An engine of batches that answers at once, and the file that it answers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.batch.engine import EngineState
from foundry_api.batch.response_line import success_line
from foundry_api.batch.types import BatchLineResult
from foundry_api.types.errors import ServiceNotRunning

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable
    from pathlib import Path

    from foundry_api.batch.types import WorkItem

__all__ = ["BODY", "AtOnce", "write_input"]

BODY = msgspec.json.encode(
    {
        "id": "chatcmpl-1234567890",
        "object": "chat.completion",
        "created": 1764000000,
        "model": "tiny:1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "An answer of a few words."},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18},
    }
)


class AtOnce:
    """A `BatchEngine` that costs nothing but its answer's line, which any script writes as well.

    Args:
        most: It goes away after so many lines.
    """

    def __init__(self, most: float = math.inf) -> None:
        self._most = most

    async def run(self, items: AsyncIterable[WorkItem], /) -> AsyncGenerator[BatchLineResult]:
        """See `BatchEngine.run`."""
        count = 0
        async for work in items:
            if count >= self._most:
                raise ServiceNotRunning("the engine went away")
            count += 1
            yield BatchLineResult(
                index=work.line.index,
                digest=work.line.digest,
                output=success_line(work.request, BODY),
                failed=False,
                at=0.0,
                model="tiny:1",
                duration_s=0.01,
                time_to_first_token_s=0.005,
                prompt_tokens=12,
                completion_tokens=6,
                attempts=1,
            )

    def drain(self) -> None:
        """Nothing is ever in flight."""

    def state(self) -> EngineState:
        """See `BatchEngine.state`."""
        return EngineState()


def write_input(path: Path, lines: int, max_tokens: int = 50) -> None:
    """As OpenAI's batch files are."""
    with path.open("wb") as file:
        for number in range(lines):
            prompt = f"Give a short answer to question {number}, in one sentence."
            body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
            told: dict[str, Any] = {"custom_id": f"request-{number}", "method": "POST"}
            told |= {"url": "/v1/chat/completions", "body": body}
            file.write(msgspec.json.encode(told) + b"\n")
