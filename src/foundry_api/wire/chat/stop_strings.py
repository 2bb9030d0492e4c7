"""Stop strings, for the generations that ignore them (foundry-local-service.md, 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.types.messages import Chunk, Usage
from foundry_api.wire.dialects.base import Ending

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from foundry_api.wire.chat.stream import ChatStream

__all__ = ["Stopped"]


class Stopped:
    """A decoder that ends the answer at the first stop string, which is not part of it.

    Text that may be the beginning of a stop string is held back until that is clear. After a hit
    the rest of the stream is of no interest: closing it is what ends the engine's work.

    Args:
        stream: Decodes the events.
        stop: The stop strings.
    """

    def __init__(self, stream: ChatStream, stop: Sequence[str]) -> None:
        self._stream = stream
        self._stop = tuple(stop)
        self._held = ""
        self._raw: list[bytes] = []
        self._hit = False
        self.done = False

    @property
    def pieces(self) -> int:
        """Pieces of the answer that came, those that are held back included."""
        return self._stream.pieces

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """The pieces of text that this block completes, without what may yet be a stop string."""
        try:
            for chunk in self._stream.feed(block):
                yield from self._passed(chunk)
                if self._hit:
                    self.done = True
                    return
        except Exception:
            yield from self._released(len(self._held))  # the text ahead of an error is the caller's
            raise
        if self._stream.done:
            yield from self._released(len(self._held))
            self.done = True

    def finish(self) -> Ending:
        """How the answer ended."""
        if not self._hit:
            return self._stream.finish()
        # The service would have gone on: it has said nothing of an end, nor counted all.
        return Ending("stop", self._stream.usage or Usage(), early=True)

    def _passed(self, chunk: Chunk) -> Iterator[Chunk]:
        if not chunk.content:  # reasoning and tool calls are no part of the text
            yield chunk
            return
        self._held += chunk.content
        self._raw.append(chunk.raw)
        hits = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if hits:
            self._hit = True
            yield from self._released(min(hits))
        else:
            yield from self._released(len(self._held) - self._open())

    def _open(self) -> int:
        """How many characters at the end of the held text may begin a stop string."""
        return max(
            length
            for stop in self._stop
            for length in range(min(len(stop), len(self._held) + 1))
            if self._held.endswith(stop[:length])
        )

    def _released(self, length: int) -> Iterator[Chunk]:
        if not length:
            return
        text, self._held = self._held[:length], self._held[length:]
        raw, self._raw = b"\n".join(self._raw), []
        yield Chunk(text, self._stream.model_id, raw=raw)
