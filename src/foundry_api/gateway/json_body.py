"""Decodes the JSON bodies of requests: types, unknown and repeated members, lists too long."""

from __future__ import annotations

import json
import re
import threading
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from foundry_api.gateway.checks import make_invalid
from foundry_api.gateway.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

__all__ = ["decode_json"]

# The shortest message, with its comma, has more bytes than this.
MIN_ITEM_BYTES = 8
# No API has nearly as many; each costs a call of Python.
MAX_MEMBERS = 256
MAX_NAME_CHARS = 64

_T = TypeVar("_T")

_scan = json.JSONDecoder().raw_decode
_GAP = re.compile(r"[ \t\r\n]*,?[ \t\r\n]*")


class _Name(str):
    """The name of a member, which msgspec passes to its decoding hook."""

    __slots__ = ()


class _MemberReader(threading.local):
    """Reads the members of an object by name, each thread for itself. Their values are not built.

    Two readers of one body must not find different values in it, so a member that is repeated is
    refused. Only the last one would be counted below, but all of them would be built.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()
        # Made once: msgspec takes longer to prepare a type than to decode a body of it.
        decoder = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=self._add_name)
        self._decode = decoder.decode

    def read(self, body: bytes) -> dict[str, msgspec.Raw]:
        self._names.clear()
        return cast("dict[str, msgspec.Raw]", self._decode(body))

    def _add_name(self, _: type, name: str) -> _Name:
        names = self._names
        if name in names:
            name = name[:MAX_NAME_CHARS]
            raise make_invalid(name, f"The body has {name} twice. Send it once.")
        if len(names) == MAX_MEMBERS:
            message = f"The body has more than {MAX_MEMBERS} members, the limit of this gateway."
            raise RequestError(400, "invalid_value", message)
        names.add(name)
        return _Name(name)


_members = _MemberReader()


class _Kind:
    """A type of bodies.

    Attributes:
        decode: Decodes a body.
        members: The names of its members.
        longest_lists: How many items its lists of objects may have, by name.
    """

    __slots__ = ("decode", "longest_lists", "members")

    def __init__(self, kind: Hashable) -> None:
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(cast("type", kind)).decode
        self.members = frozenset[str](getattr(kind, "__struct_encode_fields__", ()))
        self.longest_lists: Mapping[str, int] = getattr(kind, "LONGEST_LISTS", {})


_get_kind = cache(_Kind)


def decode_json(body: bytes, kind: type[_T]) -> tuple[_T, int]:
    """Decode JSON of a type; return the value and the number of members that the type lacks.

    A class variable `LONGEST_LISTS` of the type names lists of objects, and how many each may have.

    Raises:
        RequestError: The body is not JSON, a member is repeated or has another type, or a list is
            too long; `param` is its path.
    """
    known = _get_kind(kind)  # type: ignore[arg-type] # types are hashable
    try:
        body.decode()  # msgspec does not check the members that it skips
        members = _members.read(body)
        for name, limit in known.longest_lists.items():
            if name in members and _is_longer(members[name], limit):
                message = f"{name} has more than {limit} items, the limit of this gateway."
                raise RequestError(400, "invalid_value", message, param=name)
        value = known.decode(body)
    except msgspec.ValidationError as error:
        raise _make_type_error(str(error)) from None
    except RecursionError:
        raise RequestError(400, "invalid_json", "The body is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(400, "invalid_json", f"The body is not valid JSON: {error}.") from None
    return value, len([name for name in members if name not in known.members])


def _is_longer(raw: msgspec.Raw, limit: int) -> bool:
    """Return whether an array has more objects than a limit, without building all of them.

    Building 100,000 messages, only to refuse them, would hold up every other call.
    """
    data = memoryview(raw)
    if len(data) < limit * MIN_ITEM_BYTES or data[0] != ord("["):
        return False
    content = bytes(data)
    if content.count(b"{") <= limit:  # nearly every long conversation ends here
        return False
    text = content.decode()
    position = 1
    try:
        for _ in range(limit):
            position = _scan(text, _skip_gap(text, position))[1]
        return text[_skip_gap(text, position)] != "]"
    except (ValueError, RecursionError):  # the end of the array, or JSON that is refused later
        return False


def _skip_gap(text: str, position: int) -> int:
    match = _GAP.match(text, position)
    return position if match is None else match.end()


def _make_type_error(message: str) -> RequestError:
    """Turn msgspec's message, such as "Expected `str`, got `int` - at `$.model`", into ours."""
    text, _, place = message.partition(" - at `$")
    path = place.rstrip("`").lstrip(".")
    if not path and text.startswith("Object missing required field `"):
        path = text.partition("`")[2].rstrip("`")
        return RequestError(400, "missing_required_parameter", f"{path} is missing.", param=path)
    if not path:
        return RequestError(400, "invalid_type", f"The body has the wrong type: {text}.")
    return RequestError(400, "invalid_type", f"{path}: {text}.", param=path)
