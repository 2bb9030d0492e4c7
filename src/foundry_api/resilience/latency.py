"""Timeouts from measured latencies, for `timeout="auto"`."""

from __future__ import annotations

import math
from collections import deque

__all__ = ["Latencies", "ModelLatency"]

# A wait three times as long as the 99th percentile is taken for a hang.
QUANTILE = 0.99
FACTOR = 3.0
# A busy machine stalls for this long without a fault.
FLOOR_S = 2.0
CEILING_S = 300.0
# Used until there are MIN_SAMPLES. The same as the default of FOUNDRY_TIMEOUT.
COLD_S = 30.0
MIN_SAMPLES = 10
WINDOW = 128


def _bound_s(waits: deque[float]) -> float:
    if len(waits) < MIN_SAMPLES:
        return COLD_S
    rank = math.ceil(QUANTILE * len(waits)) - 1
    return min(max(FLOOR_S, FACTOR * sorted(waits)[rank]), CEILING_S)


class ModelLatency:
    """The recent waits for the tokens of one model."""

    def __init__(self) -> None:
        self._first_waits: deque[float] = deque(maxlen=WINDOW)
        self._gap_waits: deque[float] = deque(maxlen=WINDOW)

    @property
    def bounds_s(self) -> tuple[float, float]:
        """The timeouts for the first token and for the gap between two tokens."""
        return _bound_s(self._first_waits), _bound_s(self._gap_waits)

    def record_success(self, first_s: float, gap_s: float) -> None:
        """Record a call's time to first token and its longest gap between two tokens."""
        self._first_waits.append(first_s)
        self._gap_waits.append(gap_s)

    def record_timeout(self, limit_s: float, *, streaming: bool) -> None:
        # It counts as a wait of that length, so that the next timeout is longer.
        (self._gap_waits if streaming else self._first_waits).append(limit_s)


class Latencies:
    """The latencies of all models that a client calls, by model id."""

    def __init__(self) -> None:
        self._models: dict[str, ModelLatency] = {}

    def for_model(self, model_id: str) -> ModelLatency:
        latency = self._models.get(model_id)
        return self._models.setdefault(model_id, ModelLatency()) if latency is None else latency
