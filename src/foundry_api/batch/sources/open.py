"""Which source an input is."""

from __future__ import annotations

import re
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from foundry_api.batch.request_body import MEMBERS, suggest_nearest
from foundry_api.batch.sources.csv import CsvRows
from foundry_api.batch.sources.files import PARQUET_MAGIC, FileOrigin, read_beginning
from foundry_api.batch.sources.json_array import begins_array
from foundry_api.batch.sources.lines import OpenAILines, TextLines
from foundry_api.batch.sources.stdin import is_stream, make_draft_path, never, spool_stdin
from foundry_api.types.errors import BatchInputInvalid, BatchStorageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from foundry_api.batch.sources.base import Source
    from foundry_api.batch.sources.files import InputOrigin
    from foundry_api.batch.sources.stdin import StandardInput
    from foundry_api.batch.types import InputOptions

__all__ = ["detect_format", "open_seekable", "open_source"]


_COMPRESSED = frozenset({".gz", ".zst", ".zstd"})
_FORMATS: Mapping[str, str] = {
    ".jsonl": "openai",
    ".ndjson": "openai",
    ".json": "openai",
    ".txt": "text",
    ".text": "text",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_FORMAT_HINT = "Say what it is with --format openai, text, csv or parquet."
_SPREADSHEET = "Save it as CSV in UTF-8."
_PACKED = "Unpack it first; what is compressed with gzip or zstd alone is read as it is."
_HINTS: Mapping[str, str] = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"), _SPREADSHEET),
    **dict.fromkeys((".zip", ".7z", ".rar", ".tar", ".tgz", ".bz2", ".xz", ".lz4"), _PACKED),
}

_BINARY: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"PK(\x03\x04|\x05\x06)"), "a zip archive, as .xlsx and .docx are", _PACKED),
    (re.compile(rb"\x1f\x8b|\x28\xb5\x2f\xfd"), "compressed once more", _PACKED),
    (re.compile(rb"BZh[1-9]1AY&SY|\xfd7zXZ\x00|7z\xbc\xaf|Rar!\x1a"), "an archive", _PACKED),
    (re.compile(rb"%PDF-"), "a PDF document", "Save it as text."),
    (re.compile(rb"\{\\rtf"), "an RTF document", "Save it as text."),
    (re.compile(rb"[^\x00]*\x00"), "binary data, not text in UTF-8", "Save it as UTF-8."),
)
_CODE = re.compile(rb"\s*(?:#!\s*/|%YAML|---\s*\n|<\?xml|<!doctype|<html|<svg)", re.IGNORECASE)
_EXCEL = re.compile(rb'\s*"?sep=([^"\w\s]|\t)"?[,;\t]*\r?\n', re.IGNORECASE)
_REQUESTS = re.compile(rb'\s*+\[?+\s*+\{\s*"(?:custom_id|method|url|body|messages)"\s*:')


def detect_format(options: InputOptions, name: str, head: bytes, *, is_stream: bool) -> str:
    """The format that the name tells, else the content.

    Args:
        options: What was given; no format.
        name: What messages call the input.
        head: How it begins, decompressed.
        is_stream: Whether it is a pipe, whose name says nothing.

    Raises:
        BatchInputInvalid: It may be anything, or is not what its name says.
    """
    suffix = _get_suffix(options.path)
    by_name = _FORMATS.get(suffix)
    if head.startswith(PARQUET_MAGIC) and by_name in {None, "parquet"}:
        return "parquet"
    if by_name is None and suffix and not is_stream:
        raise _format_error(
            f"what {name} holds is not known: {suffix} is none of {', '.join(_FORMATS)}",
            _HINTS.get(suffix, ""),
        )
    if by_name != "parquet":
        _check_not_binary(name, head)
    if by_name == "text" and _REQUESTS.match(head):
        raise _format_error(f"{name} seems to hold requests, not prompts")
    return by_name or _detect_from_content(options, name, head)


def _get_suffix(path: str) -> str:
    parts = [part.lower() for part in PurePath(path).suffixes]
    while parts and parts[-1] in _COMPRESSED:
        parts.pop()
    return parts[-1] if parts else ""


def _check_not_binary(name: str, head: bytes) -> None:
    for kind, what, hint in _BINARY:
        if kind.match(head):
            raise _format_error(f"{name} is {what}", hint)


def _detect_from_content(options: InputOptions, name: str, head: bytes) -> str:
    if _CODE.match(head):
        raise _format_error(f"{name} seems to hold code or markup, not prompts")
    if head.lstrip().startswith(b"{") or begins_array(head):
        return "openai"
    if _EXCEL.match(head):
        return "csv"
    return "text" if options.column is None else "csv"


def _format_error(message: str, hint: str = "") -> BatchInputInvalid:
    return BatchInputInvalid(message, field="format", hint=f"{hint} {_FORMAT_HINT}".strip())


def open_source(
    options: InputOptions,
    *,
    spool: Path | None = None,
    standard_input: StandardInput = "same",
    is_abandoned: Callable[[], bool] = never,
    accept: Callable[[Source], object] | None = None,
) -> Source:
    """The input of a batch. Blocks.

    Args:
        options: What is read, and what is made of it.
        spool: Where standard input, or another pipe, is copied to, so that it can be read again;
            None to read it once as it comes.
        standard_input: Whether what is in the spool must be the same, is replaced, or is the
            input.
        is_abandoned: Asked now and then, while a pipe gives nothing, whether to give up.
        accept: Raises what refuses the input, before its copy takes the place of another one.

    Raises:
        BatchInputInvalid: The input cannot be read, or the options do not fit it; `.field` names
            the option.
        BatchMismatch: Standard input is not what was copied before.
        BatchStorageFailed: Standard input cannot be copied.
    """
    _check_members(options)
    if standard_input == "new" and spool is not None and spool.exists() and is_stream(options.path):
        _replace_copy(options, spool, is_abandoned, accept)
        return open_source(options, spool=spool, standard_input="kept")
    origin = _open_origin(options.path, spool, standard_input, is_abandoned)
    try:
        source = _SOURCES[_get_format(origin, options)](origin, options)
        if accept is not None:
            accept(source)
    except BaseException:
        origin.close()
        raise
    return source


@contextmanager
def open_seekable(options: InputOptions) -> Generator[Source]:
    """The input, which can be read more than once: a pipe is copied to a file until the end.

    Raises:
        FoundryError: See `open_source`.
    """
    with tempfile.TemporaryDirectory(prefix="foundry-api-") as directory:
        yield open_source(options, spool=Path(directory) / "input", standard_input="new")


def _replace_copy(
    options: InputOptions,
    spool: Path,
    is_abandoned: Callable[[], bool],
    accept: Callable[[Source], object] | None,
) -> None:
    """Copy a pipe in the place of what an earlier run read, which stays if this one is refused."""
    draft = make_draft_path(spool)
    try:
        open_source(
            options, spool=draft, standard_input="new", is_abandoned=is_abandoned, accept=accept
        )
        draft.replace(spool)
    except OSError as error:
        why = error.strerror or str(error)
        raise BatchStorageFailed(f"{spool} cannot be replaced: {why}") from error
    finally:
        with suppress(OSError):  # it may never have been made
            draft.unlink()


def _open_openai(origin: InputOrigin, options: InputOptions) -> Source:
    for name in ("column", "template", "system"):
        if getattr(options, name) is not None:
            raise BatchInputInvalid(
                f"{origin.name} holds whole requests, for which no {name} is taken",
                field=name,
                hint="It is for prompts: say what they are in with --format text, csv or parquet.",
            )
    return OpenAILines(origin, options)


def _open_parquet(origin: InputOrigin, options: InputOptions) -> Source:
    from foundry_api.batch.sources.parquet import ParquetRows  # noqa: PLC0415 - few inputs are

    return ParquetRows(origin, options)


_SOURCES: Mapping[str, Callable[[InputOrigin, InputOptions], Source]] = {
    "openai": _open_openai,
    "text": TextLines,
    "csv": CsvRows,
    "parquet": _open_parquet,
}


def _open_origin(
    path: str, spool: Path | None, use: StandardInput, is_abandoned: Callable[[], bool]
) -> InputOrigin:
    if _is_spooled(path, spool, use):
        return spool_stdin(path, spool, use, is_abandoned)
    origin = FileOrigin(Path(path).expanduser())
    origin.peek().close()
    return origin


def _is_spooled(path: str, spool: Path | None, use: StandardInput) -> bool:
    try:
        return is_stream(path)
    except BatchInputInvalid:
        # The pipe of an earlier run is gone, but its copy may be there.
        if use == "kept" and spool is not None and spool.exists():
            return True
        raise


def _get_format(origin: InputOrigin, options: InputOptions) -> str:
    if options.format != "auto":
        return options.format
    is_stream = not isinstance(origin, FileOrigin) or origin.is_copy
    return detect_format(options, origin.name, read_beginning(origin), is_stream=is_stream)


def _check_members(options: InputOptions) -> None:
    for name in options.members:
        if name not in MEMBERS:
            raise BatchInputInvalid(
                f"{name} is no member of a request{suggest_nearest(name, MEMBERS)}", field="members"
            )
