"""What `/stats` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.observe.format import format_count, format_duration, format_rate

if TYPE_CHECKING:
    from foundry_api.cli.conversation.transcript import Transcript
    from foundry_api.types.messages import Chunk, Completion

__all__ = ["format_statistics"]


def format_statistics(last: Chunk | Completion | None, transcript: Transcript) -> str:
    """Return the counts and durations of the last answer, and the size of the conversation."""
    lines: list[tuple[str, str]] = []
    if last is None:
        lines.append(("answer", "none that is complete"))
    elif last.cached:
        lines.append(("answer", "from the cache"))
    if last is not None and last.usage is not None:
        usage = last.usage
        lines += [
            ("prompt", format_count(usage.prompt_tokens, "token")),
            ("answer", format_count(usage.completion_tokens, "token")),
        ]
    if last is not None and last.timings is not None:
        timings = last.timings
        lines += [
            ("first token", format_duration(timings.time_to_first_token_s)),
            ("total", format_duration(timings.total_s)),
            ("speed", _format_speed(timings.tokens_per_second)),
        ]
    turns = format_count(len(transcript.turns), "turn")
    omitted = f", {transcript.omitted:,} no longer sent" if transcript.omitted else ""
    lines.append(("conversation", f"{turns}{omitted}"))
    shown = [(name, value) for name, value in lines if value]
    width = max(len(name) for name, _ in shown)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown)


def _format_speed(tokens_per_second: float | None) -> str:
    rate = format_rate(tokens_per_second)
    return f"{rate} tokens/s" if rate else ""
