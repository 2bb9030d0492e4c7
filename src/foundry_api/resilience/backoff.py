"""How long to wait before something that failed is tried again."""

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

    The jitter is drawn below the cap, not added and then cut, so that many clients that reached
    the cap still come back at different times.

    Args:
        base_s: Upper bound of the first wait, in seconds; it doubles with each further failure.
        cap_s: Upper bound of every wait, in seconds.
        uniform: Draws a number between two bounds.
    """

    base_s: float
    cap_s: float
    uniform: Callable[[float, float], float] = field(default=random.uniform, repr=False)

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row; none after none."""
        if not failures:
            return 0.0
        # The exponent is bounded too: 2.0 ** 1024 overflows.
        return self.uniform(0.0, min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 32)))
