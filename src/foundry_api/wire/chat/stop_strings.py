"""Stop strings, for the generations that ignore them (foundry-local-service.md, 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.types.messages import Chunk, Usage
from foundry_api.wire.chat.events import StreamEnd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from foundry_api.wire.chat.stream import ChatStream

__all__ = ["StopStringFilter"]


class StopStringFilter:
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
        self._pending = ""
        self._raw: list[bytes] = []
        self._is_stopped = False
        self.done = False

    @property
    def chunk_count(self) -> int:
        """Pieces of the answer that came, those that are held back included."""
        return self._stream.chunk_count

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """The pieces of text that this block completes, without what may yet be a stop string."""
        try:
            for chunk in self._stream.feed(block):
                yield from self._filter(chunk)
                if self._is_stopped:
                    self.done = True
                    return
        except Exception:
            yield from self._release(
                len(self._pending)
            )  # the text ahead of an error is the caller's
            raise
        if self._stream.done:
            yield from self._release(len(self._pending))
            self.done = True

    def finish(self) -> StreamEnd:
        """How the answer ended."""
        if not self._is_stopped:
            return self._stream.finish()
        # The service would have gone on: it has said nothing of an end, nor counted all.
        return StreamEnd("stop", self._stream.usage or Usage(), stopped_early=True)

    def _filter(self, chunk: Chunk) -> Iterator[Chunk]:
        if not chunk.content:  # reasoning and tool calls are no part of the text
            yield chunk
            return
        self._pending += chunk.content
        self._raw.append(chunk.raw)
        hits = [position for stop in self._stop if (position := self._pending.find(stop)) >= 0]
        if hits:
            self._is_stopped = True
            yield from self._release(min(hits))
        else:
            yield from self._release(len(self._pending) - self._partial_stop_length())

    def _partial_stop_length(self) -> int:
        """How many characters at the end of the held text may begin a stop string."""
        return max(
            length
            for stop in self._stop
            for length in range(min(len(stop), len(self._pending) + 1))
            if self._pending.endswith(stop[:length])
        )

    def _release(self, length: int) -> Iterator[Chunk]:
        if not length:
            return
        text, self._pending = self._pending[:length], self._pending[length:]
        raw, self._raw = b"\n".join(self._raw), []
        yield Chunk(text, self._stream.model_id, raw=raw)
