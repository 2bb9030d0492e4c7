"""How far a batch is, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.batch.words import (
    format_bytes,
    format_duration,
    format_int,
    format_percent,
    format_rate,
)

if TYPE_CHECKING:
    from foundry_api.batch.engine import EngineState
    from foundry_api.batch.progress import BatchProgress

__all__ = ["engine_in_words", "fraction", "line", "phase_in_words", "speed_in_words"]

BYTES_PER_MB = 2**20
STATES = {"closed": "well", "open": "away", "half-open": "being tried"}
"""Of a service, by the state of the circuit breaker that guards it."""


def fraction(now: BatchProgress) -> float | None:
    """How much is over, 0 to 1; None if that is not known."""
    if now.phase == "checking":
        return min(1.0, now.read_bytes / now.size_bytes) if now.size_bytes else None
    return now.finished / now.total if now.total else None


def phase_in_words(now: BatchProgress) -> str:
    """What goes on, where that is not the answering."""
    if now.phase == "checking":
        size = format_bytes(now.size_bytes) if now.size_bytes else ""
        return " ".join(filter(None, ("checking the input", size and f"({size})")))
    phases = {
        "waiting": "waiting for the other runners",
        "publishing": "writing the output",
    }
    return phases.get(now.phase, "")


def speed_in_words(now: BatchProgress) -> str:
    """`41.2 lines/s, 2,310 tokens/s`, of lately; empty before anything is finished."""
    if now.lines_per_s is None:
        return ""
    tokens = f", {format_rate(now.tokens_per_s)} tokens/s" if now.tokens_per_s else ""
    return f"{format_rate(now.lines_per_s)} lines/s{tokens}"


def engine_in_words(state: EngineState) -> str:
    """`8 in flight of at most 8, 512 queued`, and which services are not well."""
    limit = f" of at most {state.limit}" if state.limit is not None else ""
    parts = [f"{state.in_flight} in flight{limit}", f"{format_int(state.queued)} queued"]
    ill = [(name, told) for name, told in state.services if told != "closed"]
    parts += [f"{name} is {STATES.get(told, told)}" for name, told in ill]
    return ", ".join(parts)


def line(now: BatchProgress) -> str:
    """All of it in one line, for a log."""
    part = fraction(now)
    if now.phase == "checking":
        so_far = "" if part is None else f", {format_percent(part, 1)}"
        return f"{phase_in_words(now)}{so_far}"
    total = (
        f" of {format_int(now.total)} ({format_percent(now.finished, now.total)})"
        if now.total
        else ""
    )
    parts = [
        phase_in_words(now),
        f"{format_int(now.finished)}{total} finished",
        f"{format_int(now.failed)} failed" if now.failed else "",
        f"{format_int(now.shared)} shared" if now.shared else "",
        speed_in_words(now),
        f"{format_duration(now.left_s)} left" if now.left_s else "",
        engine_in_words(now.engine) if now.phase == "running" else "",
    ]
    return ", ".join(filter(None, parts))
