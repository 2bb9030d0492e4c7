"""Where the generations differ in what callers see: one table, for the tests that hold for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_api.types import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foundry_api.types.messages import ServiceGeneration

__all__ = ["EXPECTED", "Expected"]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is peculiar to a generation.

    Attributes:
        counts_tokens: Whether it sends a usage.
        default_max_tokens: Where it cuts an answer without a bound.
        tells_overflow: Whether it is known what it says of a prompt that does not fit.
        drops_reasoning: Whether it keeps to itself what a model thinks that is known to reason.
        far_away: The error for a model of the catalog whose files are not on this machine.
    """

    counts_tokens: bool = True
    default_max_tokens: int = 2048
    tells_overflow: bool = True
    drops_reasoning: bool = False
    far_away: type[errors.FoundryError] = errors.ModelNotCached


EXPECTED: Mapping[ServiceGeneration, Expected] = {
    "legacy": Expected(counts_tokens=False, default_max_tokens=512, tells_overflow=False),
    "cli-0.10": Expected(),
    "sdk-1": Expected(far_away=errors.ModelNotFound),  # it lists what is here and nothing else
    "sdk-2.0": Expected(drops_reasoning=True),
    "sdk-2.1": Expected(),
}
