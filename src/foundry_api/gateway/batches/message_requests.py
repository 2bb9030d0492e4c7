"""The body of a message batch: read in bounded memory, checked as a whole, written as lines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from foundry_api.batch.sources.files import BLOCK_BYTES
from foundry_api.batch.sources.json_array import JsonMarks
from foundry_api.gateway.batches.validation import MAX_LINES, check_message
from foundry_api.gateway.checks import make_invalid, make_missing
from foundry_api.gateway.errors import RequestError, make_model_not_allowed, translate_error
from foundry_api.gateway.files.batch_types import CheckedRequests
from foundry_api.gateway.json_body import decode_json
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["write_requests"]

# As Anthropic's.
_CUSTOM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Of all members besides `requests`. The gateway needs none of them.
MAX_OTHER_BYTES = 64 * 1024
# Looked at for the name before an array.
TAIL_BYTES = 64
_NAME = re.compile(rb'(?<!\\)"requests"\s*:\s*\Z')


class _Body(msgspec.Struct):
    requests: list[msgspec.Raw]


class _Request(msgspec.Struct):
    custom_id: str
    params: msgspec.Raw


def write_requests(
    body: Path,
    lines: BinaryIO,
    *,
    allows_model: Callable[[str], bool],
    default_model: str | None,
    max_bytes: int,
) -> CheckedRequests:
    """Check all requests of a body, and write each as a line. Blocks.

    Raises:
        RequestError: The body or one of its requests is invalid.
    """
    names: set[str] = set()
    models: set[str] = set()
    with body.open("rb") as file:
        for index, raw in enumerate(_iter_requests(file, max_bytes)):
            place = f"requests[{index}]"
            if index == MAX_LINES:
                raise make_invalid("requests", f"A batch has up to {MAX_LINES} requests. Split it.")
            if len(raw) > max_bytes:
                raise _make_too_large(index, max_bytes)
            request = _decode(place, raw)
            if not _CUSTOM_ID.fullmatch(request.custom_id):
                raise make_invalid(
                    f"{place}.custom_id",
                    f"{place}.custom_id has 1 to 64 letters, digits, hyphens and underscores.",
                )
            if request.custom_id in names:
                raise make_invalid(
                    f"{place}.custom_id", f"{place}.custom_id is that of an earlier request."
                )
            names.add(request.custom_id)
            params = bytes(request.params)
            model = _check_params(f"{place}.params", params, default_model)
            if not allows_model(model):
                raise make_model_not_allowed(model, param=f"{place}.params.model")
            models.add(model)
            lines.write(
                b'{"custom_id":"%b","body":%b}\n'
                % (request.custom_id.encode(), msgspec.json.format(params, indent=-1))
            )
    if not names:
        raise make_missing("requests")
    return CheckedRequests(len(names), models.pop() if len(models) == 1 else None)


def _decode(place: str, raw: bytes) -> _Request:
    try:
        return decode_json(raw, _Request)[0]
    except RequestError as error:
        raise _locate(place, error) from None


def _check_params(place: str, params: bytes, default_model: str | None) -> str:
    """Return the model of a request."""
    try:
        return check_message(params, default_model)
    except RequestError as error:
        raise _locate(place, error) from None
    except FoundryError as error:
        raise _locate(place, translate_error(error)) from error


def _locate(place: str, error: RequestError) -> RequestError:
    """Return an error with the place of the request that it is about."""
    param, message = place, error.message
    if error.param:
        param, message = f"{place}.{error.param}", message.removeprefix(f"{error.param}: ")
    elif error.code == "invalid_json":
        message = f"The request is not valid JSON, or nested too deeply ({message})"
    return RequestError(error.status, error.code, f"{param}: {message}", param=param)


def _iter_requests(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    """Yield the elements of `requests` as they are written, then check what is around them."""
    scanner = _Scanner()
    while block := file.read(BLOCK_BYTES):
        yield from scanner.find_elements(block)
        if len(scanner.element) > max_bytes:
            raise _make_too_large(scanner.count, max_bytes)
        if len(scanner.rest) > MAX_OTHER_BYTES:
            raise make_invalid(
                "requests",
                f"The members besides requests have more than {MAX_OTHER_BYTES} bytes.",
            )
    if decode_json(bytes(scanner.rest), _Body)[0].requests:
        raise make_invalid("requests", "Write the name of requests without escapes or blanks.")


class _Scanner:
    """Cuts the elements out of the member `requests` of an object.

    Attributes:
        rest: What is around the elements.
        element: The beginning of an element that is not complete.
        count: How many elements were complete.
    """

    def __init__(self) -> None:
        self.rest = bytearray()
        self.element = bytearray()
        self.count = 0
        self._marks = JsonMarks()
        self._depth = 0
        self._is_inside = False

    def find_elements(self, block: bytes) -> Iterator[bytes]:
        """Yield the elements that end in the next block."""
        start = position = 0
        while (place := self._marks.find(block, position)) is not None:
            position = place + 1
            mark = block[place:position]
            if mark in b"[{":
                before = self.rest[-TAIL_BYTES:] + block[max(start, place - TAIL_BYTES) : place]
                if self._depth == 1 and mark == b"[" and _NAME.search(before):
                    self.rest += block[start:position]
                    start, self._is_inside = position, True
                self._depth += 1
                continue
            if mark in b"]}":
                self._depth -= 1
            is_end = self._is_inside and self._depth == 1
            if is_end or (self._is_inside and self._depth == 2 and mark == b","):  # noqa: PLR2004
                element = bytes(self.element + block[start:place])
                self.element.clear()
                # In `[]` the bracket ends no element.
                if not is_end or self.count or element.strip():
                    yield element
                    self.count += 1
                start = place if is_end else position
                self._is_inside = not is_end
        (self.element if self._is_inside else self.rest).extend(block[start:])


def _make_too_large(index: int, max_bytes: int) -> RequestError:
    place = f"requests[{index}]"
    return make_invalid(place, f"{place} is larger than {max_bytes} bytes (max_body_bytes).")
