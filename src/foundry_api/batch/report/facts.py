"""What a page about a batch is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from foundry_api.batch.figures import Figures

__all__ = ["ReportFacts", "ReportState"]

ReportState = Literal["finished", "finished with failures", "not finished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """A batch, for a page about it.

    Attributes:
        title: What was asked: the input's name.
        state: How far it came.
        total: Lines of the input; None if nobody counted them yet.
        figures: What it came to.
        settings: How it was asked and where things are, by their names.
        made_at: When the page is made, in seconds since the epoch.
        version: Of this package.
    """

    title: str
    state: ReportState
    total: int | None
    figures: Figures
    settings: tuple[tuple[str, str], ...]
    made_at: float
    version: str
