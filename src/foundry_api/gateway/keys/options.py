"""Read the values of a new key from text, such as `60/m`. Errors name the option."""

from __future__ import annotations

import re
from typing import cast

from foundry_api.gateway.keys.token import KEY_PREFIX
from foundry_api.gateway.keys.types import SCOPES, Limit, LimitUnit, Scope
from foundry_api.observe.format import parse_duration
from foundry_api.types.errors import InvalidRequest

__all__ = [
    "MAX_WEIGHT",
    "RATE_UNITS",
    "TOKEN_UNITS",
    "check_key_name",
    "parse_grace",
    "parse_lifetime",
    "parse_limit",
    "parse_limits",
    "parse_models",
    "parse_parallel",
    "parse_scopes",
]

RATE_UNITS: tuple[LimitUnit, ...] = ("s", "m", "h", "d")
TOKEN_UNITS: tuple[LimitUnit, ...] = ("m", "h", "d", "mo")

MAX_WEIGHT = 1000.0
MAX_NAME_CHARS = 64
MAX_MODELS = 1000
MAX_MODEL_CHARS = 256
MAX_AMOUNT = 10**12
MAX_PARALLEL = 100_000
MAX_DURATION_S = 36_500 * 86_400.0  # 100 years
SHOWN_CHARS = 80  # of a wrong value in a message

_LIMIT = re.compile(r"([0-9]{1,13})\s*/\s*([a-z]+)", re.ASCII)


def check_key_name(field: str, name: str) -> str:
    """Return a name that fits into a table, a log line and the label of a metric."""
    if name.startswith(KEY_PREFIX):  # perhaps a token, which the message must not show
        raise InvalidRequest(
            f"{field} starts with {KEY_PREFIX}, as only tokens do",
            field=field,
            hint="Choose a name that says who uses the key.",
        )
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable() or name != name.strip():
        raise InvalidRequest(
            f"{field} is {_show(name)}, which is not a name for a key",
            field=field,
            hint=f"Give 1 to {MAX_NAME_CHARS} printable characters, without spaces at the ends.",
        )
    return name


def parse_scopes(field: str, text: str) -> frozenset[Scope]:
    """Parse `inference,metrics`."""
    names = _split(text)
    unknown = [name for name in names if name not in SCOPES]
    if unknown or not names:
        raise InvalidRequest(
            f"{field} is {_show(text)}, with {_show(unknown[0]) if unknown else 'no scope'}",
            field=field,
            hint=f"Give one or several of {', '.join(SCOPES)}, separated by commas.",
        )
    return frozenset(cast("list[Scope]", names))


def parse_models(field: str, text: str) -> frozenset[str]:
    """Parse `phi-4-mini,demo`. Names of models have no case."""
    names = [name.lower() for name in _split(text)]
    is_valid = all(len(name) <= MAX_MODEL_CHARS and name.isprintable() for name in names)
    if not names or len(names) > MAX_MODELS or not is_valid:
        raise InvalidRequest(
            f"{field} is {_show(text)}, which is not a list of models",
            field=field,
            hint=f"Give at most {MAX_MODELS} aliases or ids, separated by commas.",
        )
    return frozenset(names)


def parse_limit(field: str, text: str, units: tuple[LimitUnit, ...]) -> Limit:
    """Parse `60/m`."""
    found = _LIMIT.fullmatch(text.strip())
    amount = int(found[1]) if found else 0
    by_name: dict[str, LimitUnit] = {unit: unit for unit in units}
    unit = by_name.get(found[2]) if found else None
    if unit is None or not 1 <= amount <= MAX_AMOUNT:
        raise InvalidRequest(
            f"{field} is {_show(text)}, which is not a limit",
            field=field,
            hint=f"Give a number from 1 to {MAX_AMOUNT:,} and a unit, such as 60/m; the units are "
            f"{', '.join(units)}.",
        )
    return Limit(amount, unit)


def parse_limits(field: str, text: str, units: tuple[LimitUnit, ...]) -> tuple[Limit, ...]:
    """Parse `2000/m,100000/d`, with the shortest period first."""
    limits = [parse_limit(field, part, units) for part in text.split(",")]
    if len({limit.unit for limit in limits}) < len(limits):
        raise InvalidRequest(
            f"{field} is {_show(text)}, with two limits for one unit",
            field=field,
            hint="Give one limit for each unit.",
        )
    return tuple(sorted(limits, key=lambda limit: units.index(limit.unit)))


def parse_parallel(field: str, text: str) -> int:
    """Parse a number of calls."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= SHOWN_CHARS else 0
    if not 1 <= number <= MAX_PARALLEL:
        raise InvalidRequest(
            f"{field} is {_show(text)}, which is not a number of calls",
            field=field,
            hint=f"Give a whole number from 1 to {MAX_PARALLEL:,}.",
        )
    return number


def parse_lifetime(field: str, text: str) -> float:
    """Parse `90d` to seconds."""
    seconds = parse_duration(text, field)
    if seconds > MAX_DURATION_S:
        raise InvalidRequest(
            f"{field} is {_show(text)}, which is more than 100 years",
            field=field,
            hint="Leave it out for a key that never expires.",
        )
    return seconds


def parse_grace(field: str, text: str) -> float:
    """Parse `24h` to seconds; `0` is allowed."""
    return 0.0 if re.fullmatch(r"0\s*[smhd]?", text.strip()) else parse_lifetime(field, text)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _show(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…")
