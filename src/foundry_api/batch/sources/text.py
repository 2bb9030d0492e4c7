"""Plain text: a prompt on each line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.batch.sources.prompts import DEFAULT_COLUMN, Prompts
from foundry_api.batch.sources.written_lines import LineSource
from foundry_api.errors import BatchInputInvalid, InvalidRequest

if TYPE_CHECKING:
    from foundry_api.batch.lines import BatchRequest, Line
    from foundry_api.batch.options import InputOptions
    from foundry_api.batch.sources.reading import Origin

__all__ = ["TextLines", "decoded"]


class TextLines(LineSource):
    """An input with a prompt on each line.

    Args:
        origin: Where its bytes come from.
        options: What is made of a line.

    Raises:
        BatchInputInvalid: The options do not fit.
    """

    def __init__(self, origin: Origin, options: InputOptions) -> None:
        super().__init__(origin, options, "text")
        if options.column not in {None, DEFAULT_COLUMN}:
            raise BatchInputInvalid(
                f"{self.name} is plain text, which has no column {options.column!r}",
                field="column",
                hint="Say what it is with --format csv or --format parquet.",
            )
        self._prompts = Prompts(options, [DEFAULT_COLUMN], "A line", {"line": 0})

    def custom_id(self, line: Line) -> str | None:
        """`line-N`, by its number."""
        return f"line-{line.number}"

    def _request(self, line: Line) -> BatchRequest:
        return self._prompts.request([decoded(line.raw, "it")], f"line-{line.number}")


def decoded(raw: bytes, what: str) -> str:
    """UTF-8 as text.

    Args:
        raw: The bytes.
        what: What they are, for messages.

    Raises:
        InvalidRequest: It is no UTF-8.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{what} is not UTF-8: byte {error.start + 1} is 0x{raw[error.start]:02x}",
            hint="Save the file as UTF-8.",
        ) from error
