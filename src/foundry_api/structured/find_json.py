"""The JSON in an answer: alone, in a code fence, or in the middle of a sentence."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

from foundry_api.structured.refusal import ValidationFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["decode_json", "iter_json_candidates"]

_FENCE = "```"
_LANGUAGE = re.compile(r"[\w+-]*[^\S\n]*\n?")
_JSON_START = re.compile(r'\{\s*["}]|\[\s*["{}\[\]\dtfn-]')
"""A bracket with what may stand behind it in JSON."""

MAX_CANDIDATES = 100
"""Texts in an answer that are tried. Each is decoded and validated."""

MAX_INVALID_STARTS = 1000
"""Beginnings of JSON that turn out to be none. For each, all of the answer is looked at."""


def iter_json_candidates(text: str) -> Iterator[str]:
    """The texts in an answer that may be the JSON, likeliest first; at least one.

    An engine that enforces a schema answers with JSON alone. Other models put it into a code fence
    or between sentences, which are looked through then. Of an object that is not whole, no part is
    taken for one.

    Raises:
        ValidationFailed: The answer is empty.
    """
    stripped = text.strip()
    if not stripped:
        raise ValidationFailed("the answer is empty")
    yield stripped
    yield from itertools.islice(
        itertools.chain(_iter_fenced(stripped), _iter_embedded(stripped)), MAX_CANDIDATES - 1
    )


def decode_json(text: str) -> Any:
    """What a JSON text means.

    Raises:
        ValidationFailed: It is not JSON, or holds a number that no float can hold.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValidationFailed(f"the answer is not JSON: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValidationFailed(f"the answer cannot be read: {error}") from error


def _iter_fenced(text: str) -> Iterator[str]:
    """What stands in the code fences that are closed."""
    end = -len(_FENCE)
    while (opening := text.find(_FENCE, end + len(_FENCE))) >= 0:
        start = opening + len(_FENCE)
        if (end := text.find(_FENCE, start)) < 0:
            return
        language = _LANGUAGE.match(text, start, end)
        yield text[language.end() if language else start : end].strip()


def _iter_embedded(text: str) -> Iterator[str]:
    position = broken = 0
    while broken < MAX_INVALID_STARTS and (opening := _JSON_START.search(text, position)):
        start = opening.start()
        try:
            _, position = _DECODER.raw_decode(text, start)
        except json.JSONDecodeError as error:
            position = max(error.pos, start + 1)  # not within it: half an object is none
            broken += 1
        except (ValueError, RecursionError):
            return
        else:
            yield text[start:position]


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _parse_finite_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is out of range")
    return number


_DECODER = json.JSONDecoder(parse_constant=_reject_constant, parse_float=_parse_finite_float)
