"""Which source an input is."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api.batch.bodies import MEMBERS, nearest
from foundry_api.batch.sources.csv_rows import CsvRows
from foundry_api.batch.sources.formats import format_of
from foundry_api.batch.sources.openai_lines import OpenAILines
from foundry_api.batch.sources.reading import StoredFile, beginning_of
from foundry_api.batch.sources.standard_input import draft_of, is_stream, never, spooled
from foundry_api.batch.sources.text import TextLines
from foundry_api.errors import BatchInputInvalid, BatchStorageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from foundry_api.batch.options import InputOptions
    from foundry_api.batch.sources.base import Source
    from foundry_api.batch.sources.reading import Origin
    from foundry_api.batch.sources.standard_input import StandardInput

__all__ = ["open_rereadable", "open_source"]


def open_source(
    options: InputOptions,
    *,
    spool: Path | None = None,
    standard_input: StandardInput = "same",
    is_left: Callable[[], bool] = never,
    accept: Callable[[Source], object] | None = None,
) -> Source:
    """The input of a batch. Blocks.

    Args:
        options: What is read, and what is made of it.
        spool: Where standard input, or another pipe, is copied to, so that it can be read again;
            None to read it once as it comes.
        standard_input: Whether what is in the spool must be the same, is replaced, or is the
            input.
        is_left: Asked now and then, while a pipe gives nothing, whether to give up.
        accept: Raises what refuses the input, before its copy takes the place of another one.

    Raises:
        BatchInputInvalid: The input cannot be read, or the options do not fit it; `.field` names
            the option.
        BatchChanged: Standard input is not what was copied before.
        BatchStorageFailed: Standard input cannot be copied.
    """
    _check_members(options)
    if standard_input == "new" and spool is not None and spool.exists() and is_stream(options.path):
        _replace_copy(options, spool, is_left, accept)
        return open_source(options, spool=spool, standard_input="kept")
    origin = _origin(options.path, spool, standard_input, is_left)
    try:
        source = _SOURCES[_format(origin, options)](origin, options)
        if accept is not None:
            accept(source)
    except BaseException:
        origin.close()
        raise
    return source


@contextmanager
def open_rereadable(options: InputOptions) -> Generator[Source]:
    """The input, which can be read more than once: a pipe is copied to a file until the end.

    Raises:
        FoundryError: See `open_source`.
    """
    with tempfile.TemporaryDirectory(prefix="foundry-api-") as directory:
        yield open_source(options, spool=Path(directory) / "input", standard_input="new")


def _replace_copy(
    options: InputOptions,
    spool: Path,
    is_left: Callable[[], bool],
    accept: Callable[[Source], object] | None,
) -> None:
    """Copy a pipe in the place of what an earlier run read, which stays if this one is refused."""
    draft = draft_of(spool)
    try:
        open_source(options, spool=draft, standard_input="new", is_left=is_left, accept=accept)
        draft.replace(spool)
    except OSError as error:
        why = error.strerror or str(error)
        raise BatchStorageFailed(f"{spool} cannot be replaced: {why}") from error
    finally:
        with suppress(OSError):  # it may never have been made
            draft.unlink()


def _openai(origin: Origin, options: InputOptions) -> Source:
    for name in ("column", "template", "system"):
        if getattr(options, name) is not None:
            raise BatchInputInvalid(
                f"{origin.name} holds whole requests, for which no {name} is taken",
                field=name,
                hint="It is for prompts: say what they are in with --format text, csv or parquet.",
            )
    return OpenAILines(origin, options)


def _parquet(origin: Origin, options: InputOptions) -> Source:
    from foundry_api.batch.sources.parquet import ParquetRows  # noqa: PLC0415 - few inputs are

    return ParquetRows(origin, options)


_SOURCES: Mapping[str, Callable[[Origin, InputOptions], Source]] = {
    "openai": _openai,
    "text": TextLines,
    "csv": CsvRows,
    "parquet": _parquet,
}


def _origin(
    path: str, spool: Path | None, use: StandardInput, is_left: Callable[[], bool]
) -> Origin:
    if _is_spooled(path, spool, use):
        return spooled(path, spool, use, is_left)
    origin = StoredFile(Path(path).expanduser())
    origin.look().close()
    return origin


def _is_spooled(path: str, spool: Path | None, use: StandardInput) -> bool:
    try:
        return is_stream(path)
    except BatchInputInvalid:
        # The pipe of an earlier run is gone, but its copy may be there.
        if use == "kept" and spool is not None and spool.exists():
            return True
        raise


def _format(origin: Origin, options: InputOptions) -> str:
    if options.format != "auto":
        return options.format
    is_stream = not isinstance(origin, StoredFile) or origin.is_copy
    return format_of(options, origin.name, beginning_of(origin), is_stream=is_stream)


def _check_members(options: InputOptions) -> None:
    for name in options.members:
        if name not in MEMBERS:
            raise BatchInputInvalid(
                f"{name} is no member of a request{nearest(name, MEMBERS)}", field="members"
            )
