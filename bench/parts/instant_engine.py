"""A batch engine that answers immediately, and an input file for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.batch.engine import EngineState
from foundry_api.batch.response_line import make_success_line
from foundry_api.batch.types import BatchLineResult
from foundry_api.types.errors import ServiceNotRunning

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable
    from pathlib import Path

    from foundry_api.batch.types import WorkItem

__all__ = ["BODY", "InstantEngine", "write_input"]

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


class InstantEngine:
    """A `BatchEngine` that only encodes the line of its answer, as any script does too.

    After `max_lines` it fails as if the service was gone.
    """

    def __init__(self, max_lines: float = math.inf) -> None:
        self._max_lines = max_lines

    async def run(self, items: AsyncIterable[WorkItem], /) -> AsyncGenerator[BatchLineResult]:
        count = 0
        async for work in items:
            if count >= self._max_lines:
                raise ServiceNotRunning("the engine went away")
            count += 1
            yield BatchLineResult(
                index=work.line.index,
                digest=work.line.digest,
                output=make_success_line(work.request, BODY),
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
        """Do nothing: no request is ever in flight."""

    def get_state(self) -> EngineState:
        return EngineState()


def write_input(path: Path, lines: int, max_tokens: int = 50) -> None:
    """Write an OpenAI batch file."""
    with path.open("wb") as file:
        for number in range(lines):
            prompt = f"Give a short answer to question {number}, in one sentence."
            body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
            request: dict[str, Any] = {"custom_id": f"request-{number}", "method": "POST"}
            request |= {"url": "/v1/chat/completions", "body": body}
            file.write(msgspec.json.encode(request) + b"\n")
