"""Time-outs that follow what a model was seen to do, for `timeout="auto"`."""

from __future__ import annotations

import math
from collections import deque

__all__ = ["Latencies", "ModelLatency"]

QUANTILE = 0.99
FACTOR = 3.0
"""A wait three times as long as all but the longest ones is taken for a hang."""

FLOOR_S = 2.0
"""A busy machine stalls for this long without anything being wrong."""

CEILING_S = 300.0
COLD_S = 30.0
"""The bound until enough is known: the default of `FOUNDRY_TIMEOUT`."""

MIN_SAMPLES = 10
WINDOW = 128


class _Bound:
    """One bound, from the waits that were seen."""

    def __init__(self) -> None:
        self.seen: deque[float] = deque(maxlen=WINDOW)

    @property
    def seconds(self) -> float:
        if len(self.seen) < MIN_SAMPLES:
            return COLD_S
        rank = math.ceil(QUANTILE * len(self.seen)) - 1
        return min(max(FLOOR_S, FACTOR * sorted(self.seen)[rank]), CEILING_S)


class ModelLatency:
    """What was seen of one model."""

    def __init__(self) -> None:
        self._first = _Bound()
        self._gap = _Bound()

    @property
    def bounds_s(self) -> tuple[float, float]:
        """Bounds of the silence before the first token and of that between two tokens."""
        return self._first.seconds, self._gap.seconds

    def record_success(self, first_s: float, gap_s: float) -> None:
        """A call was answered.

        Args:
            first_s: Its time to first token.
            gap_s: Its longest wait between two tokens.
        """
        self._first.seen.append(first_s)
        self._gap.seen.append(gap_s)

    def record_timeout(self, limit_s: float, *, streaming: bool) -> None:
        """A bound fell. It counts as a wait of that length, so that the next one is longer."""
        (self._gap if streaming else self._first).seen.append(limit_s)


class Latencies:
    """What was seen of every model that a client called."""

    def __init__(self) -> None:
        self._models: dict[str, ModelLatency] = {}

    def of(self, model: str) -> ModelLatency:
        """What was seen of one.

        Args:
            model: Its id.
        """
        latency = self._models.get(model)
        return self._models.setdefault(model, ModelLatency()) if latency is None else latency
