"""A transport that answers with recorded bytes, for tests of dialects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foundry_api.wire.transport import Request


@dataclass
class Recorded:
    """Answers each path with recorded bytes, and notes what was asked."""

    answers: Mapping[str, tuple[int, bytes]]
    asked: list[str] = field(default_factory=list)

    async def send(self, request: Request) -> RecordedResponse:
        path = request.url.removeprefix("http://service")
        self.asked.append(f"{request.method} {path}")
        return RecordedResponse(*self.answers[path])

    async def aclose(self) -> None:
        raise NotImplementedError


@dataclass
class RecordedResponse:
    """What was recorded, in one block."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    ended: bool = False

    async def read(self) -> bytes:
        body, self.body = self.body, b""
        return body

    def close(self) -> None:
        pass
