"""How long a service takes to read a prompt, estimated from the prompts that it has read."""

from __future__ import annotations

import string
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from foundry_api.types.errors import DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "MARGIN",
    "MIN_TOKENS",
    "UNKNOWN_SIZE",
    "DeadlineTooShort",
    "PromptReading",
    "PromptReadings",
    "PromptSize",
    "ReadingEstimate",
]

# The time to the first token of a shorter prompt is mostly overhead.
MIN_TOKENS = 64
# For an estimate that a call may be refused for.
MIN_SAMPLES = 3
# A call is refused if this share of the estimate is longer than its deadline allows.
MARGIN = 0.7
# Only prompts of a similar text are compared: a token of English has 4 bytes, one of digits, random
# characters or another script perhaps 1. This is how much the shares of a kind of character differ.
MAX_DIFFERENCE = 0.1
# And only those of a similar length. The overhead of a shorter one would count several
# times. A longer one takes more time for each token, because of attention: at most in proportion to
# its length, which MARGIN makes up for.
MAX_EXTRAPOLATION = 3
MAX_LONGER = 1 / MARGIN
# A call that is refused measures nothing. So that a measurement on a machine that was busy does not
# refuse calls for ever, older ones do not count.
MAX_AGE_S = 300.0
# Samples kept for each order of magnitude (a power of two) of the length.
WINDOW = 8


_ASCII_LETTERS = string.ascii_letters.encode()


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


class PromptSize(NamedTuple):
    """The size of a prompt in UTF-8, and how much of it is of each kind."""

    size_bytes: int
    ascii_letters: int
    spaces: int
    continuation_bytes: int  # bytes that do not begin a character

    @classmethod
    def of(cls, texts: Iterable[str]) -> PromptSize:
        """Measure the texts of a prompt."""
        text = "".join(texts)
        data = text.encode()
        other_bytes = len(data.translate(None, _ASCII_LETTERS))
        size = len(data)
        return cls(size, size - other_bytes, data.count(b" "), size - len(text))

    def is_similar(self, other: PromptSize) -> bool:
        """Return whether a token of both has about as many bytes."""
        size, other_size = self.size_bytes, other.size_bytes
        return all(
            abs(count / size - other_count / other_size) <= MAX_DIFFERENCE
            for count, other_count in zip(self[1:], other[1:], strict=True)
        )


UNKNOWN_SIZE = PromptSize(0, 0, 0, 0)


class _Sample(NamedTuple):
    size: PromptSize
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

    def record(self, size: PromptSize, tokens: int | None, duration_s: float) -> None:
        """Record the time to the first token of a prompt. Short prompts are ignored."""
        size_bytes = size.size_bytes
        is_short = tokens < MIN_TOKENS if tokens is not None else size_bytes < 4 * MIN_TOKENS
        if is_short or size_bytes <= 0 or duration_s <= 0:
            return
        window = self._samples.setdefault(size_bytes.bit_length(), deque(maxlen=WINDOW))
        window.append(_Sample(size, tokens, duration_s, self._monotonic()))

    def estimate(
        self, size: PromptSize, *, min_samples: int = MIN_SAMPLES
    ) -> ReadingEstimate | None:
        """Return the shortest time that a prompt may take; None without enough similar ones."""
        size_bytes = size.size_bytes
        oldest_at = self._monotonic() - MAX_AGE_S
        similar = [
            sample
            for window in self._samples.values()
            for sample in window
            if size_bytes <= MAX_EXTRAPOLATION * sample.size.size_bytes
            and sample.size.size_bytes <= MAX_LONGER * size_bytes
            and size.is_similar(sample.size)
            and sample.taken_at >= oldest_at
        ]
        if len(similar) < max(min_samples, 1):
            return None
        # Other programs may have slowed the others down.
        seconds_per_byte = min(sample.duration_s / sample.size.size_bytes for sample in similar)
        tokens_per_byte = min(
            (
                sample.tokens / sample.size.size_bytes
                for sample in similar
                if sample.tokens is not None
            ),
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
