"""Find the JSON in an answer: alone, in a code fence or between sentences."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

from foundry_api.structured.errors import ValidationFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["decode_json", "iter_json_candidates"]

_FENCE = "```"
_LANGUAGE = re.compile(r"[\w+-]*[^\S\n]*\n?")
# A bracket followed by what may follow it in JSON.
_JSON_START = re.compile(r'\{\s*["}]|\[\s*["{}\[\]\dtfn-]')

# Each candidate is decoded and validated.
MAX_CANDIDATES = 100
# Each start that turns out not to be JSON may scan the rest of the answer.
MAX_INVALID_STARTS = 1000


def iter_json_candidates(text: str) -> Iterator[str]:
    """Yield the texts in an answer that may be JSON, the likeliest first, at least one.

    Raises ValidationFailed for an empty answer.
    """
    stripped = text.strip()
    if not stripped:
        raise ValidationFailed("the answer is empty")
    # An engine that enforces a schema returns only JSON. Other models put it in a code fence or
    # between sentences.
    yield stripped
    yield from itertools.islice(
        itertools.chain(_iter_fenced(stripped), _iter_embedded(stripped)), MAX_CANDIDATES - 1
    )


def _iter_fenced(text: str) -> Iterator[str]:
    """Yield the contents of closed code fences."""
    end = -len(_FENCE)
    while (opening := text.find(_FENCE, end + len(_FENCE))) >= 0:
        start = opening + len(_FENCE)
        if (end := text.find(_FENCE, start)) < 0:
            return
        language = _LANGUAGE.match(text, start, end)
        yield text[language.end() if language else start : end].strip()


def _iter_embedded(text: str) -> Iterator[str]:
    """Yield the JSON objects and arrays in a text, but no parts of incomplete ones."""
    position = invalid_starts = 0
    while invalid_starts < MAX_INVALID_STARTS and (match := _JSON_START.search(text, position)):
        start = match.start()
        try:
            _, position = _DECODER.raw_decode(text, start)
        except json.JSONDecodeError as error:
            # Continue behind the error, not at the next bracket: a complete object within an
            # incomplete one is not the answer.
            position = max(error.pos, start + 1)
            invalid_starts += 1
        except (ValueError, RecursionError):
            return
        else:
            yield text[start:position]


def decode_json(text: str) -> Any:
    """Decode JSON. Raises ValidationFailed for other text, and for numbers beyond a float."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValidationFailed(f"the answer is not JSON: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValidationFailed(f"the answer cannot be read: {error}") from error


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _parse_finite_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is out of range")
    return number


# Python accepts NaN and Infinity, and reads 1e999 as infinity.
_DECODER = json.JSONDecoder(parse_constant=_reject_constant, parse_float=_parse_finite_float)
