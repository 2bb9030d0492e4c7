"""What callers may expect of each generation, for the tests that run on all of them."""

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
    """The properties of a generation.

    Attributes:
        counts_tokens: Whether it sends usage.
        default_max_tokens: Where it truncates an answer without a limit.
        tells_overflow: Whether its message for a prompt that does not fit is known.
        drops_reasoning: Whether it does not send the reasoning of a known reasoning model.
        far_away: The error for a model of the catalog that is not cached.
        clamps_max_tokens: Whether it lowers a limit for which the context has no room.
        counts_embedded_tokens: Whether it sends usage for embeddings.
        enforces: Whether it enforces schemas, choices and grammars.
    """

    counts_tokens: bool = True
    default_max_tokens: int = 2048
    tells_overflow: bool = True
    drops_reasoning: bool = False
    far_away: type[errors.FoundryError] = errors.ModelNotCached
    clamps_max_tokens: bool = False
    counts_embedded_tokens: bool = False
    enforces: bool = False


EXPECTED: Mapping[ServiceGeneration, Expected] = {
    "legacy": Expected(counts_tokens=False, default_max_tokens=512, tells_overflow=False),
    "cli-0.10": Expected(),
    "sdk-1": Expected(far_away=errors.ModelNotFound),  # it lists what is here and nothing else
    "sdk-2.0": Expected(drops_reasoning=True),
    "sdk-2.1": Expected(enforces=True),
    # It downloads nothing for a call, so it knows only the models on its machine.
    "gateway": Expected(
        enforces=True,
        clamps_max_tokens=True,
        counts_embedded_tokens=True,
        far_away=errors.ModelNotFound,
    ),
}
