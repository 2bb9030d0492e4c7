"""Numbers and times of a batch, for people to read and to write."""

from __future__ import annotations

import re

from foundry_api.errors import InvalidRequest

__all__ = ["counted", "number", "parse_duration", "percent", "rate", "spell"]

UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)?", re.IGNORECASE)
TEN, HUNDRED = 10, 100


def number(value: float) -> str:
    """A whole number with its thousands apart: `1,234,567`."""
    return f"{round(value):,}"


def counted(count: int, noun: str) -> str:
    """So many: `1 line`, `1,200 lines`."""
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def rate(value: float) -> str:
    """So many a second, with three digits or all of the whole ones: `0.25`, `41.3`, `2,310`."""
    if value >= HUNDRED or not value:
        return number(value)
    return f"{value:.1f}" if value >= TEN else f"{value:.2f}"


def percent(part: float, whole: float) -> str:
    """A share, which is 0 or 100 % only where it is all or nothing."""
    if not whole:
        return "0%"
    share = part / whole * HUNDRED
    if 0 < share < 1 or HUNDRED - 1 < share < HUNDRED:
        return f"{min(max(share, 0.01), 99.99):.2f}%"
    return f"{share:.0f}%"


def spell(seconds: float | None) -> str:
    """A time in at most two units: `850 ms`, `1.2 s`, `45 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds > 0 else "0 s"
    if seconds < TEN:
        return f"{seconds:.2g} s"
    for large, small in (("d", "h"), ("h", "m"), ("m", "s")):
        parts = divmod(round(seconds / UNITS_S[small]), UNITS_S[large] // UNITS_S[small])
        if parts[0]:
            return _joined(parts, (large, small))
    return f"{seconds:.0f} s"


def _joined(parts: tuple[int, int], units: tuple[str, str]) -> str:
    told = [f"{n} {'min' if unit == 'm' else unit}" for n, unit in zip(parts, units, strict=True)]
    return " ".join(told if parts[1] else told[:1])


def parse_duration(text: str, field: str) -> float:
    """Seconds, out of `90s`, `10m`, `2h`, `1h30m` or `1d`; a bare number is seconds.

    Args:
        text: As a person wrote it.
        field: What it is for, for the error.

    Raises:
        InvalidRequest: It is no time above 0.
    """
    parts = WRITTEN.findall(text)
    alone = len(parts) == 1
    whole = "".join(text.split()) == "".join("".join(part) for part in parts)
    if not whole or not all(unit or alone for _, unit in parts):
        raise _no_duration(text, field)
    seconds = sum(float(count) * UNITS_S[(unit or "s")[0].lower()] for count, unit in parts)
    if seconds <= 0:
        raise _no_duration(text, field)
    return seconds


def _no_duration(text: str, field: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field} is {text!r}, which is no time", field=field, hint="Such as 90s, 10m, 2h or 1h30m."
    )
