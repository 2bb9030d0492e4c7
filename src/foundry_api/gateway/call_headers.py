"""Headers of calls: deadlines that callers send, and limits that the gateway reports."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from foundry_api.gateway.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foundry_api.gateway.limits.accounts import Account

__all__ = ["format_duration", "make_limit_headers", "read_deadline_s"]

# The header in which every OpenAI SDK sends its time limit is last: its default is 10 minutes.
_DEADLINE_HEADERS = ("X-Request-Timeout", "x-stainless-read-timeout")
MAX_DEADLINE_S = 7 * 86_400.0


def read_deadline_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds after which a caller no longer waits; None if it names none.

    It is `X-Request-Timeout: 30`, `Prefer: wait=30` or `x-stainless-read-timeout: 30`.

    Raises:
        RequestError: The value is not a number of seconds.
    """
    texts = {name: text for name in _DEADLINE_HEADERS if (text := headers.get(name))}
    for preference in headers.get("Prefer", "").split(","):
        name, separator, value = preference.strip().partition("=")
        if separator and name.strip().lower() == "wait":
            texts["Prefer"] = value.strip()
    deadlines = [_read_seconds(name, text) for name, text in texts.items()]
    return min(deadlines, default=None)


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


def make_limit_headers(account: Account) -> dict[str, str]:
    """Describe the limits of a key as OpenAI does."""
    headers: dict[str, str] = {}
    budgets = {"requests": account.requests}
    if account.tokens:
        budgets["tokens"] = min(account.tokens.values(), key=lambda budget: budget.remaining)
    for unit, budget in budgets.items():
        if budget is not None:
            headers[f"x-ratelimit-limit-{unit}"] = str(budget.amount)
            headers[f"x-ratelimit-remaining-{unit}"] = str(budget.remaining)
            headers[f"x-ratelimit-reset-{unit}"] = format_duration(budget.reset_s)
    return headers


def format_duration(seconds: float) -> str:
    """Format a duration as OpenAI's headers do: `20ms`, `1s`, `6m0s`, `2h0m5s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
