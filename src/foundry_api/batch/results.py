"""What `client.batch` gives back: one result for each request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from foundry_api.batch.lines import BatchRequest
from foundry_api.errors import FoundryError
from foundry_api.messages import Completion, Message
from foundry_api.replies.embeddings import Embeddings
from foundry_api.replies.responses import Response
from foundry_api.results import ShortResult

if TYPE_CHECKING:
    import typing_extensions

    _A_co = typing_extensions.TypeVar("_A_co", covariant=True, default="BatchAnswer")
else:
    _A_co = TypeVar("_A_co", covariant=True)

__all__ = ["BatchAnswer", "BatchItem", "BatchResult", "Prompt"]

Prompt = str | Sequence[Message | Mapping[str, Any]]
"""A prompt, or a conversation: its turns, oldest first."""

BatchItem = Prompt | BatchRequest
"""What a batch may be made of."""

BatchAnswer = Completion[Any] | Response | Embeddings
"""What a `BatchRequest` is answered with; its `url` says which."""


class BatchResult(ShortResult, msgspec.Struct, Generic[_A_co], frozen=True, kw_only=True):
    """What became of one request of a batch.

    Attributes:
        index: Its place among the requests, from 0.
        custom_id: Its own name, or `request-INDEX` where it has none.
        request: The request, as it was given.
        answer: As a single call gives it; None if it failed.
        error: Why it failed for good; None if it was answered.
        shared: Whether it took the answer of an identical request, or one from the cache.
    """

    index: int
    custom_id: str
    request: Any
    answer: _A_co | None = None
    error: FoundryError | None = None
    shared: bool = False

    def unwrap(self) -> _A_co:
        """The answer.

        Raises:
            FoundryError: Why there is none.
        """
        if self.answer is None:
            raise self.error or FoundryError(f"{self.custom_id} was not answered")
        return self.answer
