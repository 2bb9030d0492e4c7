"""Small graphs of one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ASCII_BARS", "BARS", "bars_for", "sparkline"]

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.:-=+*#"


def bars_for(encoding: str | None) -> str:
    """The bars that a terminal can show: those of Unicode, or what ASCII has instead."""
    try:
        BARS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII_BARS
    return BARS


def sparkline(
    values: Sequence[float | None], width: int, *, floor: float | None = 0.0, bars: str = BARS
) -> str:
    """The newest values as bars, the last one at the right; a gap where there was none.

    Args:
        values: Oldest first.
        width: Characters; of more values the newest are shown.
        floor: What the lowest bar stands for; None for the lowest value shown.
        bars: From the lowest to the highest.
    """
    shown = list(values)[-width:] if width > 0 else []
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low = min(known) if floor is None else floor
    span = max(known) - low
    steps = len(bars) - 1

    def bar(value: float | None) -> str:
        if value is None:
            return " "
        share = (value - low) / span if span > 0 else 0.0
        return bars[round(min(max(share, 0.0), 1.0) * steps)]

    return "".join(map(bar, shown)).rjust(width)
