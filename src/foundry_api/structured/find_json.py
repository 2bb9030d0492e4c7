"""The JSON in an answer: alone, in a code fence, or in the middle of a sentence."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

from foundry_api.structured.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["json_texts", "json_value"]

_FENCE = "```"
_LANGUAGE = re.compile(r"[\w+-]*[^\S\n]*\n?")
_OPENING = re.compile(r'\{\s*["}]|\[\s*["{}\[\]\dtfn-]')
"""A bracket with what may stand behind it in JSON."""

MAX_CANDIDATES = 100
"""Texts in an answer that are tried. Each is decoded and validated."""

MAX_BROKEN = 1000
"""Beginnings of JSON that turn out to be none. For each, all of the answer is looked at."""


def json_texts(text: str) -> Iterator[str]:
    """The texts in an answer that may be the JSON, likeliest first; at least one.

    An engine that enforces a schema answers with JSON alone. Other models put it into a code fence
    or between sentences, which are looked through then. Of an object that is not whole, no part is
    taken for one.

    Raises:
        Refused: The answer is empty.
    """
    bare = text.strip()
    if not bare:
        raise Refused("the answer is empty")
    yield bare
    yield from itertools.islice(itertools.chain(_fenced(bare), _embedded(bare)), MAX_CANDIDATES - 1)


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


def _fenced(text: str) -> Iterator[str]:
    """What stands in the code fences that are closed."""
    end = -len(_FENCE)
    while (opening := text.find(_FENCE, end + len(_FENCE))) >= 0:
        start = opening + len(_FENCE)
        if (end := text.find(_FENCE, start)) < 0:
            return
        language = _LANGUAGE.match(text, start, end)
        yield text[language.end() if language else start : end].strip()


def _embedded(text: str) -> Iterator[str]:
    at = broken = 0
    while broken < MAX_BROKEN and (opening := _OPENING.search(text, at)):
        start = opening.start()
        try:
            _, at = _DECODER.raw_decode(text, start)
        except json.JSONDecodeError as error:
            at = max(error.pos, start + 1)  # not within it: half an object is none
            broken += 1
        except (ValueError, RecursionError):
            return
        else:
            yield text[start:at]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is out of range")
    return number


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
