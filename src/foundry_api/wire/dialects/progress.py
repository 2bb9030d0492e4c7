"""How far a download is, in both forms in which a legacy service is known to tell it.

    ("model.onnx.data", 0.5)                        the documentation: a file, and a fraction
    Total 50.00% Downloading model.onnx.data        the SDK's own tests: percent, anywhere in a line

and at the end a JSON object, over as many lines as it likes: `{"success": true, "errorMessage":
null}`, whose keys the documentation writes as `Success` and `ErrorMessage`, and of which the
JavaScript SDK reads `error` (foundry-local-service.md, 1A).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from foundry_api.errors import DownloadFailed, ProtocolError
from foundry_api.wire.dialects.base import folded

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_LINE_BYTES", "ProgressDecoder", "percent_of"]

MAX_LINE_BYTES = 64 * 1024
"""Bound of one line, and of the JSON at the end."""

_FRACTION = re.compile(rb"^\(.*,\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)\s*\)$")
_PERCENT = re.compile(rb"(\d{1,3}(?:\.\d+)?)\s?%")


class ProgressDecoder:
    """Decodes the body of one download."""

    def __init__(self) -> None:
        self._rest = b""
        self._result = b""

    def feed(self, block: bytes) -> Iterator[float]:
        """The percentages, 0 to 100, that this block completes.

        Of the documentation's form they are those of one file after the other.

        Raises:
            ProtocolError: A line is larger than the bound.
        """
        *lines, self._rest = (self._rest + block.replace(b"\r", b"\n")).split(b"\n")
        for line in lines:
            yield from self._line(line)
        if len(self._rest) > MAX_LINE_BYTES or len(self._result) > MAX_LINE_BYTES:
            raise ProtocolError(f"a line of the download is larger than {MAX_LINE_BYTES} bytes")

    def finish(self) -> None:
        """Return if the service said that it has the model.

        Raises:
            DownloadFailed: It said that it has not, or nothing.
        """
        for _ in self._line(self._rest):
            pass
        told = folded(self._result)
        if not told:
            raise DownloadFailed("the download broke off before the service said that it is done")
        if told.get("success") is not True:
            why = told.get("errormessage") or told.get("error") or "the service does not say why"
            raise DownloadFailed(f"the service could not download it: {why}")

    def _line(self, line: bytes) -> Iterator[float]:
        line = line.strip()
        if self._result or line.startswith(b"{"):
            self._result += line
        elif (percent := percent_of(line)) is not None:
            yield percent


def percent_of(line: bytes) -> float | None:
    """The percentage that a line tells, 0 to 100; None if it tells none."""
    if found := _FRACTION.search(line):
        return min(100.0 * float(found[1]), 100.0)
    found = _PERCENT.search(line)
    return min(float(found[1]), 100.0) if found else None
