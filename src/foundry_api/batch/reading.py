"""The lines of an input that have to be answered, read as they are needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from foundry_api.batch.journal import BLOCK_LINES
from foundry_api.batch.lines import Line, Work
from foundry_api.errors import BatchChanged, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from foundry_api.batch.ledger import Ledger
    from foundry_api.batch.sources import Source

__all__ = ["BadLine", "Reading"]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be asked, and why."""

    line: Line
    custom_id: str | None
    error: InvalidRequest


@dataclass(slots=True)
class Reading:
    """One pass over an input. Its methods block.

    Attributes:
        source: The input.
        ledger: Knows what is finished.
        duplicates: Indexes of the lines whose `custom_id` another one had first.
        model: Give only requests for this model, `""` for those that name none; None for all.
        bad_too: Give lines that cannot be asked as well; they have no model.
        only: Look at these blocks alone; None for all.
        refused: The blocks that other runners work on.
        lines: How many lines were read.
    """

    source: Source
    ledger: Ledger
    duplicates: AbstractSet[int] = frozenset()
    model: str | None = None
    bad_too: bool = True
    only: AbstractSet[int] | None = None
    refused: set[int] = field(default_factory=set[int])
    lines: int = 0

    def blocks(self) -> Generator[list[Work | BadLine]]:
        """What is to be answered, block by block; a block may have nothing.

        Raises:
            BatchChanged: A line is not the one that was answered.
            BatchInputInvalid: The file breaks.
        """
        lines = self.source.lines()
        while block := list(islice(lines, BLOCK_LINES)):
            self.lines += len(block)
            yield self._wanted(block)

    def _wanted(self, block: list[Line]) -> list[Work | BadLine]:
        number = block[0].index // BLOCK_LINES
        if self.only is not None and number not in self.only:
            return []
        left = self._unfinished(block)
        if not left:
            return []
        if not self.ledger.claim(number):
            self.refused.add(number)
            return []
        return list(self._understood(self._unfinished(left)))  # others may have been at it

    def _unfinished(self, block: list[Line]) -> list[Line]:
        known = self.ledger.finished(block[0].index, block[-1].index - block[0].index + 1)
        if not known:
            return block
        for line in block:
            if known.get(line.index, line.digest) != line.digest:
                raise BatchChanged(f"{self.source.place(line)} is not the line that was answered")
        return [line for line in block if line.index not in known]

    def _understood(self, lines: Iterable[Line]) -> Iterator[Work | BadLine]:
        for line in lines:
            understood = self._one(line)
            if isinstance(understood, BadLine):
                if self.bad_too:
                    yield understood
            elif self.model in {None, understood.request.body.get("model", "")}:
                yield understood

    def _one(self, line: Line) -> Work | BadLine:
        try:
            request = self.source.request(line)
        except InvalidRequest as error:
            return BadLine(line, self.source.custom_id(line), error)
        if line.index in self.duplicates:
            return BadLine(line, request.custom_id, self._duplicate(line, request.custom_id))
        return Work(line, request)

    def _duplicate(self, line: Line, custom_id: str) -> InvalidRequest:
        return InvalidRequest(
            f"{self.source.place(line)}: another line has the custom_id {custom_id!r} too",
            field="custom_id",
        )
