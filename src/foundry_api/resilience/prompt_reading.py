"""How long a service takes to read a prompt, estimated from the prompts that it has read."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from foundry_api.types.errors import DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "MARGIN",
    "MIN_TOKENS",
    "DeadlineTooShort",
    "PromptReading",
    "PromptReadings",
    "ReadingEstimate",
]

# The time to the first token of a shorter prompt is mostly overhead.
MIN_TOKENS = 64
# For an estimate that a call may be refused for.
MIN_SAMPLES = 3
# A call is refused if this share of the estimate is longer than its deadline allows.
MARGIN = 0.7
# Only prompts of a similar length are compared. The overhead of a shorter one would count several
# times. A longer one takes more time for each token, because of attention: at most in proportion to
# its length, which MARGIN makes up for.
MAX_EXTRAPOLATION = 3
MAX_LONGER = 1 / MARGIN
# A call that is refused measures nothing. So that a measurement on a machine that was busy does not
# refuse calls for ever, older ones do not count.
MAX_AGE_S = 300.0
# Samples kept for each order of magnitude (a power of two) of the length.
WINDOW = 8


class DeadlineTooShort(DeadlineExceeded):
    """Reading the prompt would take longer than the deadline allows; nothing was sent.

    The engine can't be stopped while it reads a prompt, so the call would only have kept it busy.

    Attributes:
        estimate_s: The least time that reading the prompt takes, estimated from other prompts.
        prompt_tokens: The estimated length of the prompt; None if the service counts no tokens.
        tokens_per_second: How fast the service reads prompts of this model; None as above.
    """

    estimate_s: float = 0.0
    prompt_tokens: int | None = None
    tokens_per_second: float | None = None
    default_hint = "Raise the deadline, or shorten the prompt."


class ReadingEstimate(NamedTuple):
    """An estimate for one prompt. `tokens` is None if the service does not count them."""

    tokens: int | None
    duration_s: float

    @property
    def tokens_per_second(self) -> float | None:
        return None if self.tokens is None else self.tokens / self.duration_s


class _Sample(NamedTuple):
    size_bytes: int
    tokens: int | None
    duration_s: float
    taken_at: float


class PromptReading:
    """The prompts of one model that one service has read, with nothing else to do meanwhile."""

    # SDK 1.2.4 to 2.2.1 keep nothing of earlier prompts: reading one again takes as long.

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._samples: dict[int, deque[_Sample]] = {}

    @property
    def is_empty(self) -> bool:
        return not self._samples

    def record(self, size_bytes: int, tokens: int | None, duration_s: float) -> None:
        """Record the time to the first token of a prompt. Short prompts are ignored."""
        is_short = tokens < MIN_TOKENS if tokens is not None else size_bytes < 4 * MIN_TOKENS
        if is_short or size_bytes <= 0 or duration_s <= 0:
            return
        window = self._samples.setdefault(size_bytes.bit_length(), deque(maxlen=WINDOW))
        window.append(_Sample(size_bytes, tokens, duration_s, self._monotonic()))

    def estimate(
        self, size_bytes: int, *, min_samples: int = MIN_SAMPLES
    ) -> ReadingEstimate | None:
        """Return the shortest time that a prompt may take; None without enough similar ones."""
        oldest_at = self._monotonic() - MAX_AGE_S
        similar = [
            sample
            for window in self._samples.values()
            for sample in window
            if size_bytes <= MAX_EXTRAPOLATION * sample.size_bytes
            and sample.size_bytes <= MAX_LONGER * size_bytes
            and sample.taken_at >= oldest_at
        ]
        if len(similar) < max(min_samples, 1):
            return None
        # Other programs may have slowed the others down.
        seconds_per_byte = min(sample.duration_s / sample.size_bytes for sample in similar)
        tokens_per_byte = min(
            (sample.tokens / sample.size_bytes for sample in similar if sample.tokens is not None),
            default=None,
        )
        return ReadingEstimate(
            None if tokens_per_byte is None else round(size_bytes * tokens_per_byte),
            size_bytes * seconds_per_byte,
        )


class PromptReadings:
    """The `PromptReading` of each model of a service, by model id."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._models: dict[str, PromptReading] = {}

    def for_model(self, model_id: str) -> PromptReading:
        reading = self._models.get(model_id)
        return (
            self._models.setdefault(model_id, PromptReading(self._monotonic))
            if reading is None
            else reading
        )
