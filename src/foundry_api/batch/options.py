"""What a batch over files is told: what to read, how to ask, where to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from foundry_api.errors import BatchInputInvalid
from foundry_api.local_path import absolute_path
from foundry_api.service.private_file import followed

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["STANDARD_STREAM", "BatchOptions", "InputOptions", "directory_of"]

STANDARD_STREAM = "-"
"""Stands for standard input, and for standard output."""

SUFFIXES = (".jsonl", ".json", ".parquet")
"""What the error file leaves out of the output's name."""


def directory_of(output: str | Path) -> Path:
    """Where the journal of the batch with that output lies: beside the file itself, not a link."""
    if str(output) == STANDARD_STREAM:
        raise BatchInputInvalid(
            "answers on standard output have no journal",
            field="output",
            hint="Name the file that the answers of the batch go to.",
        )
    path = _file_of(output)
    return path.with_name(f"{path.name}.batch")


def _file_of(output: str | Path) -> Path:
    path = followed(output)
    if not path.name:
        raise BatchInputInvalid(
            f"the output {str(output)!r} is no name of a file", field="output", hint="Name a file."
        )
    return path


InputFormat = Literal["auto", "openai", "text", "csv", "parquet"]


class InputOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is read, and how a line becomes a request.

    Attributes:
        path: The file; `-` is standard input.
        format: `auto` goes by the file's name, compression aside (.jsonl, .json, .txt, .csv,
            .parquet), and where it has none, as pipes, by how it begins. `openai` is requests, on
            lines or in a JSON array.
        column: Of CSV and Parquet, the column with the prompt; default `prompt`. With a template
            none is needed.
        template: The prompt, with `{column}` for each column's value; of plain text the line is
            `{prompt}`, or `{line}`.
        system: Instructions ahead of each prompt.
        model: Model of requests that name none.
        members: Members of the JSON body of requests that do not have them, such as max_tokens.
    """

    path: str
    format: InputFormat = "auto"
    column: str | None = None
    template: str | None = None
    system: str | None = None
    model: str | None = None
    members: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class BatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A batch over files. The journal keeps it, so that `batch retry` need not be told again.

    Attributes:
        input: What is read.
        output: Where the answers go; `-` is standard output, without a journal.
        errors: Where the lines go that failed; default beside the output, as `NAME.errors.jsonl`.
        output_format: `auto` goes by the output's name.
        ordered: Whether the output keeps the order of the input.
        dedupe: Whether identical requests run once.
        strict: Whether one bad line refuses the whole input.
        check: Whether the whole input is checked before anything runs.
        attempts: How often a line that failed for a passing reason is begun before it counts as
            failed; default 3. Each of them is a call with retries of its own.
        patience_s: Seconds that all services may be away before the run is given up; default 600.
            Nothing is lost by that: the same command goes on.
        report: Where to write a page about the run; None for none.
    """

    input: InputOptions
    output: str
    errors: str | None = None
    output_format: Literal["auto", "jsonl", "parquet"] = "auto"
    ordered: bool = False
    dedupe: bool = False
    strict: bool = False
    check: bool = True
    attempts: int = 3
    patience_s: float = 600.0
    report: str | None = None

    @property
    def to_stream(self) -> bool:
        """Whether the answers go to standard output."""
        return self.output == STANDARD_STREAM

    @property
    def directory(self) -> Path:
        """Where the journal lies: beside the output, as `NAME.batch`."""
        return directory_of(self.output)

    @property
    def absolute(self) -> BatchOptions:
        """These options for a process in another directory, such as that of `batch retry`."""
        path = self.input.path
        if path != STANDARD_STREAM:
            path = str(absolute_path(path))
        named = {name: getattr(self, name) for name in ("output", "errors", "report")}
        return msgspec.structs.replace(
            self,
            input=msgspec.structs.replace(self.input, path=path),
            **{name: str(absolute_path(path)) for name, path in named.items() if path is not None},
        )

    @property
    def output_path(self) -> Path:
        """Where the answers go. A symbolic link is followed."""
        return _file_of(self.output)

    @property
    def errors_path(self) -> Path:
        """Where the lines go that failed. A symbolic link is followed."""
        if self.errors is not None:
            return followed(self.errors)
        name = output = self.output_path
        while name.suffix in SUFFIXES:
            name = name.with_suffix("")
        return followed(output.with_name(f"{name.name}.errors.jsonl"))
