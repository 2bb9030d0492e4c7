"""Answers that identical lines share."""

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

ANSWERS_FILE = "answers.db"
"""Beside a journal: the answers that identical lines share, for as long as the batch goes on."""

MAX_RESULTS_BYTES = 64 * 2**20


class LruResults(Generic[_R]):
    """Results by their keys, within a bound; the one that was used longest ago goes first.

    Args:
        size_of: Bytes that a result takes.
        max_bytes: Bound of all of them.
    """

    def __init__(self, get_size: Callable[[_R], int], max_bytes: int = MAX_RESULTS_BYTES) -> None:
        self._get_size = get_size
        self._max_bytes = max_bytes
        self._results: OrderedDict[bytes, tuple[_R, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> _R | None:
        """What is kept under a key."""
        entry = self._results.get(key)
        if entry is None:
            return None
        self._results.move_to_end(key)
        return entry[0]

    def put(self, key: bytes, result: _R) -> None:
        """Keep a result, if it is not larger than all the room."""
        size = len(key) + self._get_size(result)
        if size > self._max_bytes or key in self._results:
            return
        self._results[key] = result, size
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, freed) = self._results.popitem(last=False)
            self._bytes -= freed


def make_request_key(request: BatchRequest, model: str) -> bytes:
    """The same for requests that ask the same, whatever they are called.

    The order of members matters below the first level: engines write tools and schemas into the
    prompt as they are.

    Args:
        request: What is asked.
        model: The model that it is for.
    """
    members = sorted({**request.body, "model": model}.items())
    encoded = msgspec.json.encode((request.url, members))
    return hashlib.blake2b(encoded, digest_size=16).digest()


def delete_saved_answers(directory: Path) -> None:
    """Remove the answers that identical lines share, and what SQLite keeps beside them."""
    for path in directory.glob(f"{ANSWERS_FILE}*"):
        path.unlink()
