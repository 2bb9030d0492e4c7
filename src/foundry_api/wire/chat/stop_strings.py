"""Stop strings for the service generations that ignore them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.types.messages import Chunk, Usage
from foundry_api.wire.chat.events import StreamEnd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from foundry_api.wire.chat.stream import ChatStream

__all__ = ["StopStringFilter"]


class StopStringFilter:
    """A decoder that ends the answer before the first stop string.

    Text that may be the beginning of a stop string is held back until that is clear.
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
        return self._stream.chunk_count

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """Yield the chunks that this block completes."""
        try:
            for chunk in self._stream.feed(block):
                if not chunk.content:  # reasoning and tool calls are not searched
                    yield chunk
                    continue
                self._pending += chunk.content
                self._raw.append(chunk.raw)
                hits = [hit for stop in self._stop if (hit := self._pending.find(stop)) >= 0]
                if hits:
                    # First, so that `finish` is right even if the caller takes no more chunks.
                    self._is_stopped = True
                    yield from self._release(min(hits))
                    # The rest of the stream is not needed. Closing it stops the engine.
                    self.done = True
                    return
                partial_length = max(
                    length
                    for stop in self._stop
                    for length in range(min(len(stop), len(self._pending) + 1))
                    if self._pending.endswith(stop[:length])
                )
                yield from self._release(len(self._pending) - partial_length)
        except Exception:
            # The caller gets the text before the error.
            yield from self._release(len(self._pending))
            raise
        if self._stream.done:
            yield from self._release(len(self._pending))
            self.done = True

    def finish(self) -> StreamEnd:
        if not self._is_stopped:
            return self._stream.finish()
        # The service is still generating, so its usage is incomplete or missing.
        return StreamEnd("stop", self._stream.usage or Usage(), stopped_early=True)

    def _release(self, length: int) -> Iterator[Chunk]:
        if not length:
            return
        text, self._pending = self._pending[:length], self._pending[length:]
        raw, self._raw = b"\n".join(self._raw), []
        yield Chunk(text, self._stream.model_id, raw=raw)
