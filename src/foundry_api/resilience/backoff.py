"""Exponential backoff."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter.

    Attributes:
        base_s: Maximum of the first delay; doubles with each further failure.
        cap_s: Maximum of every delay.
        uniform: Returns a random number between two bounds.
    """

    base_s: float
    cap_s: float
    uniform: Callable[[float, float], float] = field(default=random.uniform, repr=False)

    def delay_s(self, failures: int) -> float:
        """Return the delay after a number of consecutive failures; 0 for 0 failures."""
        if not failures:
            return 0.0
        # The jitter is drawn below the cap, not added and then cut: clients that reached the cap
        # still return at different times. The exponent is limited because 2.0 ** 1024 overflows.
        return self.uniform(0.0, min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 32)))
