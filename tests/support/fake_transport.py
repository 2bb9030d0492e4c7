"""A fake transport with recorded responses, for tests of the dialects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foundry_api.wire.transport import Request


@dataclass
class FakeTransport:
    """Answer each path with a recorded status and body, and record the requests."""

    answers: Mapping[str, tuple[int, bytes]]
    requests: list[str] = field(default_factory=list)

    async def send(self, request: Request) -> FakeResponse:
        path = request.url.removeprefix("http://service")
        self.requests.append(f"{request.method} {path}")
        return FakeResponse(*self.answers[path])

    async def aclose(self) -> None:
        pass


@dataclass
class FakeResponse:
    """A response whose body is read in one block."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    ended: bool = False

    async def read(self) -> bytes:
        body, self.body = self.body, b""
        return body

    def close(self) -> None:
        pass
