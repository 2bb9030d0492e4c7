"""Share answers between identical lines."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foundry_api.batch.types import BatchRequest

__all__ = [
    "ANSWERS_FILE",
    "MAX_RESULTS_BYTES",
    "LruResults",
    "delete_saved_answers",
    "make_request_key",
]

_R = TypeVar("_R")

# In the journal's directory, until the batch is complete.
ANSWERS_FILE = "answers.db"

MAX_RESULTS_BYTES = 64 * 2**20


class LruResults(Generic[_R]):
    """Results by key; when their size exceeds `max_bytes`, the least recently used go."""

    def __init__(self, get_size: Callable[[_R], int], max_bytes: int = MAX_RESULTS_BYTES) -> None:
        self._get_size = get_size
        self._max_bytes = max_bytes
        self._results: OrderedDict[bytes, tuple[_R, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> _R | None:
        entry = self._results.get(key)
        if entry is None:
            return None
        self._results.move_to_end(key)
        return entry[0]

    def put(self, key: bytes, result: _R) -> None:
        size = len(key) + self._get_size(result)
        # A result larger than the whole bound would evict everything and still not fit.
        if size > self._max_bytes or key in self._results:
            return
        self._results[key] = result, size
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, freed) = self._results.popitem(last=False)
            self._bytes -= freed


def make_request_key(request: BatchRequest, model: str) -> bytes:
    """Return a key that is equal for requests with the same content."""
    # Only the first level is sorted: engines write tools and schemas into the prompt as they are,
    # so the order of their members may change the answer.
    members = sorted({**request.body, "model": model}.items())
    encoded = msgspec.json.encode((request.url, members))
    return hashlib.blake2b(encoded, digest_size=16).digest()


def delete_saved_answers(directory: Path) -> None:
    for path in directory.glob(f"{ANSWERS_FILE}*"):  # SQLite stores files next to it
        path.unlink()
