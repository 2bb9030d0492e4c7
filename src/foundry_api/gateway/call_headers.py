"""Headers of calls: deadlines that callers send, and limits that the gateway reports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from foundry_api.gateway.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foundry_api.gateway.limits.accounts import Account

__all__ = [
    "NO_PATIENCE",
    "Patience",
    "format_duration",
    "make_limit_headers",
    "read_patience",
    "read_retry_count",
]

MAX_DEADLINE_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a caller waits.

    Attributes:
        total_s: Seconds for the complete answer; infinity for no limit.
        silence_s: Seconds without any byte; infinity for no limit.
    """

    total_s: float = math.inf
    silence_s: float = math.inf

    @property
    def first_byte_s(self) -> float:
        """Seconds until the answer must have begun."""
        return min(self.total_s, self.silence_s)


NO_PATIENCE = Patience()


def read_patience(headers: Mapping[str, str]) -> Patience:
    """Return how long a caller waits.

    It says so with `X-Request-Timeout: 30` or `Prefer: wait=30`. OpenAI's SDKs send
    `x-stainless-read-timeout`, which limits the silence of a connection: within a stream, every
    chunk and every comment starts it anew.

    Raises:
        RequestError: The value is not a number of seconds.
    """
    totals: dict[str, str] = {}
    if total := headers.get("X-Request-Timeout"):
        totals["X-Request-Timeout"] = total
    if preferences := headers.get("Prefer"):
        for preference in preferences.split(","):
            name, separator, value = preference.strip().partition("=")
            if separator and name.strip().lower() == "wait":
                totals["Prefer"] = value.strip()
    silence = headers.get("x-stainless-read-timeout")
    if not totals and not silence:
        return NO_PATIENCE
    return Patience(
        min((_read_seconds(*item) for item in totals.items()), default=math.inf),
        _read_seconds("x-stainless-read-timeout", silence) if silence else math.inf,
    )


def read_retry_count(headers: Mapping[str, str]) -> int:
    """Return how often an OpenAI SDK has sent this request before."""
    text = headers.get("x-stainless-retry-count", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0  # noqa: PLR2004


def _read_seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:  # not a number fails too
        raise RequestError(
            400, "invalid_header", f"{name} must be a number of seconds above 0.", param=name
        )
    return min(seconds, MAX_DEADLINE_S)


def make_limit_headers(account: Account, now: float) -> dict[str, str]:
    """Describe the limits of a key as OpenAI does."""
    headers: dict[str, str] = {}
    if account.requests is not None:
        remaining, reset_s = account.requests.get_level(now)
        headers["x-ratelimit-limit-requests"] = str(account.requests.amount)
        headers["x-ratelimit-remaining-requests"] = str(remaining)
        headers["x-ratelimit-reset-requests"] = format_duration(reset_s)
    if account.tokens:
        levels = [(budget.get_level(now), budget.amount) for budget in account.tokens.values()]
        (remaining, reset_s), amount = min(levels)
        headers["x-ratelimit-limit-tokens"] = str(amount)
        headers["x-ratelimit-remaining-tokens"] = str(remaining)
        headers["x-ratelimit-reset-tokens"] = format_duration(reset_s)
    return headers


def format_duration(seconds: float) -> str:
    """Format a duration as OpenAI's headers do: `20ms`, `1s`, `6m0s`, `2h0m5s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    return _format_seconds(math.ceil(seconds))


@lru_cache(maxsize=64)  # every response has the time until the quota renews
def _format_seconds(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
