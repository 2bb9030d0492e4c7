"""Format numbers, sizes and times for people, and parse durations."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from foundry_api.types.errors import InvalidRequest

__all__ = [
    "format_age",
    "format_bytes",
    "format_count",
    "format_duration",
    "format_int",
    "format_megabytes",
    "format_percent",
    "format_rate",
    "format_time",
    "parse_duration",
]

UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
AGE_UNITS_S = {"day": 86_400, "hour": 3_600, "minute": 60}
DURATION_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)?", re.IGNORECASE)
TEN, HUNDRED = 10, 100
MICROSECOND_S = 1e-6
KB, MB = 2**10, 2**20


def format_int(value: float) -> str:
    """Format a rounded number with thousands separators: `1,234,567`."""
    return f"{round(value):,}" if math.isfinite(value) else str(value)


def format_count(count: int, noun: str) -> str:
    """Format a number with its noun: `1 line`, `1,200 lines`."""
    return f"{format_int(count)} {noun}{'' if count == 1 else 's'}"


def format_rate(value: float | None) -> str:
    """Format a rate with about three digits: `0.25`, `41.3`, `2,310`."""
    if value is None or not math.isfinite(value):
        return ""
    if not value:
        return "0"
    for limit, digits in ((TEN, 2), (HUNDRED, 1)):
        if round(abs(value), digits) < limit:
            return f"{value:.{digits}f}"
    return format_int(value)


def format_percent(part: float | None, total: float = HUNDRED) -> str:
    """Format a share: `54%`."""
    if part is None or not math.isfinite(part):
        return ""
    if not total:
        return "0%"
    share = part / total * HUNDRED
    # 0% and 100% only for nothing and all.
    if 0 < share < 1 or HUNDRED - 1 < share < HUNDRED:
        return f"{min(max(share, 0.01), 99.99):.2f}%"
    return f"{share:.0f}%"


def format_bytes(size: float | None) -> str:
    """Format a size in bytes: `512 B`, `3 KB`, `310 MB`, `2.6 GB`."""
    if size is None or not math.isfinite(size):
        return ""
    if size < 0:
        return f"-{format_bytes(-size)}"
    for unit in ("B", "KB", "MB"):
        if round(size) < KB:
            return f"{size:.0f} {unit}"
        size /= KB
    return f"{size:,.1f} GB"


def format_megabytes(size_mb: float | None) -> str:
    """Format a size in megabytes like `format_bytes`."""
    return format_bytes(None if size_mb is None else size_mb * MB)


def format_duration(seconds: float | None) -> str:
    """Format a duration in at most two units: `850 ms`, `1.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if seconds < MICROSECOND_S:
        return "0 s"
    # Rounded first, so that 0.9996 s is "1 s" and not "1000 ms".
    if round(seconds, 3) < 1:
        milliseconds = seconds * 1000
        return f"{milliseconds:.0f} ms" if milliseconds >= TEN else f"{milliseconds:.2g} ms"
    if seconds < TEN:
        return f"{seconds:.2g} s"
    for large, small in (("d", "h"), ("h", "m"), ("m", "s")):
        large_count, small_count = divmod(
            round(seconds / UNITS_S[small]), UNITS_S[large] // UNITS_S[small]
        )
        if large_count:
            texts = [
                f"{count:,} {'min' if unit == 'm' else unit}"
                for count, unit in ((large_count, large), (small_count, small))
                if count
            ]
            return " ".join(texts)
    return f"{seconds:.0f} s"


def format_age(seconds: float) -> str:
    """Format an age in its largest unit: `just now`, `5 minutes ago`, `3 days ago`."""
    for unit, size in AGE_UNITS_S.items():
        if seconds >= size:
            return f"{format_count(int(seconds // size), unit)} ago"
    return "just now"


def format_time(at: float | None) -> str:
    """Format a Unix timestamp in the local time zone: `2026-03-01T12:00:00+01:00`."""
    if at is None:
        return ""
    # From UTC: on Windows, the zone of a local time near 1970 is an OSError, because finding it
    # looks at the day before.
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(timespec="seconds")


def parse_duration(text: str, field: str) -> float:
    """Parse `90s`, `10m`, `2h`, `1h30m` or `1d` to seconds; a number without a unit is seconds.

    Raises InvalidRequest, with the name of the `field`, unless the duration is above 0.
    """
    parts = DURATION_PATTERN.findall(text)
    seconds = sum(float(count) * UNITS_S[(unit or "s")[0].lower()] for count, unit in parts)
    is_complete = "".join(text.split()) == "".join("".join(part) for part in parts)
    # 1h30 may mean minutes or seconds.
    is_clear = len(parts) == 1 or all(unit for _, unit in parts)
    if not is_complete or not is_clear or seconds <= 0:
        raise InvalidRequest(
            f"{field} is {text!r}, which is not a duration",
            field=field,
            hint="Such as 90s, 10m, 2h or 1h30m.",
        )
    return seconds
