"""What embeddings answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from foundry_api.messages import Attempt, Generation, Timings, Usage
from foundry_api.results import ShortResult

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Embeddings", "Vector"]

Vector = tuple[float, ...]
"""One text as numbers. The services scale them to length 1 (probed on 1.2.4, 2.0.1 and 2.2.1)."""


class Embeddings(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """The vectors of one or several texts. Iterates over them, in the order of the texts.

    Attributes:
        vectors: One for each text, in order; all of one length.
        model: The id of the model that made them.
        service: The base URL of the service that answered; of several, the last one's.
        generation: Which generation of Foundry Local that is.
        usage: Tokens of all texts; None where the service does not count them, which none of the
            SDK's does.
        timings: Where the time went. There is no first token.
        attempts: The HTTP requests made, failed ones too, in the order of the texts.
    """

    vectors: tuple[Vector, ...]
    model: str
    service: str
    generation: Generation
    usage: Usage | None
    timings: Timings
    attempts: tuple[Attempt, ...]

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""
        return len(self.vectors[0])

    def __len__(self) -> int:
        return len(self.vectors)

    def __iter__(self) -> Iterator[Vector]:
        return iter(self.vectors)

    def __getitem__(self, index: int) -> Vector:
        return self.vectors[index]
