"""What a transcription answers."""

from __future__ import annotations

import msgspec

from foundry_api.messages import Attempt, Generation, Timings
from foundry_api.results import ShortResult

__all__ = ["Transcription", "TranscriptionChunk"]


class Transcription(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """What is said in a recording.

    Attributes:
        text: What is said.
        model: The id of the model that listened.
        service: The base URL of the service that answered.
        generation: Which generation of Foundry Local that is.
        timings: Where the time went; tokens per second are unknown, as no service counts them.
        attempts: The HTTP requests made, the successful one last.
        raw: The data of every event, or the whole body, as the service sent it.
    """

    text: str
    model: str
    service: str
    generation: Generation
    timings: Timings
    attempts: tuple[Attempt, ...]
    raw: tuple[bytes, ...] = ()


class TranscriptionChunk(ShortResult, msgspec.Struct, frozen=True):
    """A piece of a transcription.

    Attributes:
        text: The new text; empty in the last one.
        model: The id of the model that listens.
        timings: Set on the last one only.
        attempts: Set on the last one only.
        raw: The event's data as the service sent it.
    """

    text: str
    model: str
    timings: Timings | None = None
    attempts: tuple[Attempt, ...] = ()
    raw: bytes = b""
