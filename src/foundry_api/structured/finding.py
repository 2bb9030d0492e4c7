"""The JSON in an answer: alone, in a code fence, or in the middle of a sentence."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from foundry_api.structured.refusal import Refused

__all__ = ["found_json", "json_value"]

_FENCE = re.compile(r"```[\w+-]*[^\S\n]*\n?(.*?)```", re.DOTALL)
_OPENING = re.compile(r"[{\[]")
MAX_STARTS = 64
"""In how many places of a chatty answer JSON is looked for."""


def found_json(text: str) -> str:
    """The JSON text in an answer.

    An engine that enforces a schema answers with JSON alone; other models like to put it into a
    code fence, with a sentence ahead of it.

    Raises:
        Refused: There is none.
    """
    bare = text.strip()
    if not bare:
        raise Refused("the answer is empty")
    error = _flaw(bare)
    if error is None:
        return bare
    fenced = (match.strip() for match in _FENCE.findall(bare))
    for candidate in fenced:
        if _flaw(candidate) is None:
            return candidate
    return _embedded(bare, error)


def json_value(text: str) -> Any:
    """What a JSON text means.

    Raises:
        Refused: It is not JSON, or holds a number that no float can hold.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise Refused(f"the answer is not JSON: {error}") from error
    except (ValueError, RecursionError) as error:
        raise Refused(f"the answer cannot be read: {error}") from error


def _embedded(text: str, error: Refused) -> str:
    for opening, _ in zip(_OPENING.finditer(text), range(MAX_STARTS), strict=False):
        try:
            _, end = _DECODER.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            continue
        return text[opening.start() : end]
    raise error


def _flaw(text: str) -> Refused | None:
    try:
        json_value(text)
    except Refused as error:
        return error
    return None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is out of range")
    return number


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
