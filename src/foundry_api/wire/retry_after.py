"""When a service wants to be asked again (RFC 9110, section 10.2.3)."""

from __future__ import annotations

import math
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["retry_after_s"]


def retry_after_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds to wait, or None if the headers do not say.

    `Retry-After-Ms` is exact and comes first; Azure's gateways send it. `Retry-After` is seconds
    or an HTTP date. What cannot be read counts as not said.

    Args:
        headers: Of the answer; names compare without case.
        now: Seconds since the epoch; None asks the clock.
    """
    exact = _number(headers.get("Retry-After-Ms", ""))
    if exact is not None:
        return exact / 1000
    told = headers.get("Retry-After", "")
    seconds = _number(told)
    return _until(told, now) if seconds is None else seconds


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def _until(date: str, now: float | None) -> float | None:
    try:
        moment = parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError, OSError):  # no date, or one outside the platform's range
        return None
    return max(0.0, moment - (time.time() if now is None else now))
