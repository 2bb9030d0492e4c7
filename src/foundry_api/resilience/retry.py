"""When a failed attempt is made again, and how long that waits."""

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
        retries: Further attempts after the first; 0 means none.
        base_s: Upper bound of the first wait, in seconds.
        cap_s: Upper bound of every wait, in seconds.
        uniform: Draws a number between two bounds.
    """

    retries: int = 3
    base_s: float = 0.1
    cap_s: float = 5.0
    uniform: Callable[[float, float], float] = field(default=random.uniform, repr=False)

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after `failures` attempts failed, 1 or more."""
        # The exponent is bounded too: 2.0 ** 1024 overflows.
        bound = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 32))
        return self.uniform(0.0, bound)
