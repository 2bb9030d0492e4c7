"""Members of a body that are told on a command line, as NAME=VALUE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.batch.bodies import MEMBERS, nearest
from foundry_api.errors import InvalidRequest
from foundry_api.wire.dialects.base import BAD_JSON

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["parsed_members"]


def parsed_members(told: Iterable[str]) -> dict[str, Any]:
    r"""The members; of a name that comes twice, the last.

    A value is JSON where it can be read as such, else text: `max_tokens=50`, `stop=["\n"]`,
    `user=me`. A text that looks like JSON is put in quotes: `user='"7"'`.

    Args:
        told: Each as NAME=VALUE.

    Raises:
        InvalidRequest: One has no `=`, or no body has such a member.
    """
    return dict(map(_parsed, told))


def _parsed(told: str) -> tuple[str, Any]:
    name, equals, value = told.partition("=")
    name = name.strip()
    if not equals or not name:
        raise InvalidRequest(
            f"{told!r} is not NAME=VALUE", field="set", hint="Such as --set max_tokens=50."
        )
    if name not in MEMBERS:
        raise InvalidRequest(
            f"{name} is no member of a request{nearest(name, MEMBERS)}", field="set"
        )
    return name, _value(value)


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except BAD_JSON:
        return text
