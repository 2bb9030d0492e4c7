"""Open an input: detect its format, and copy it first if it is a pipe."""

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
from foundry_api.storage.private_file import replace_atomically
from foundry_api.types.errors import BatchInputInvalid, BatchStorageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from foundry_api.batch.sources.base import Source
    from foundry_api.batch.sources.files import InputOrigin
    from foundry_api.batch.sources.stdin import CopyMode
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
_FORMAT_HINT = "Give its format with --format openai, text, csv or parquet."
_SPREADSHEET_HINT = "Save it as CSV in UTF-8."
_ARCHIVE_HINT = "Unpack it first; a file compressed with gzip or zstd alone can stay as it is."
_HINTS: Mapping[str, str] = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"), _SPREADSHEET_HINT),
    **dict.fromkeys((".zip", ".7z", ".rar", ".tar", ".tgz", ".bz2", ".xz", ".lz4"), _ARCHIVE_HINT),
}

# Contents that cannot be lines of prompts, whatever the name of the file.
_BINARY: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"PK(\x03\x04|\x05\x06)"), "a zip archive, as .xlsx and .docx are", _ARCHIVE_HINT),
    (re.compile(rb"\x1f\x8b|\x28\xb5\x2f\xfd"), "compressed once more", _ARCHIVE_HINT),
    (re.compile(rb"BZh[1-9]1AY&SY|\xfd7zXZ\x00|7z\xbc\xaf|Rar!\x1a"), "an archive", _ARCHIVE_HINT),
    (re.compile(rb"%PDF-"), "a PDF document", "Save it as text."),
    (re.compile(rb"\{\\rtf"), "an RTF document", "Save it as text."),
    (re.compile(rb"[^\x00]*\x00"), "binary data, not text in UTF-8", "Save it as UTF-8."),
)
_CODE = re.compile(rb"\s*(?:#!\s*/|%YAML|---\s*\n|<\?xml|<!doctype|<html|<svg)", re.IGNORECASE)
_EXCEL = re.compile(rb'\s*"?sep=([^"\w\s]|\t)"?[,;\t]*\r?\n', re.IGNORECASE)
_REQUESTS = re.compile(rb'\s*+\[?+\s*+\{\s*"(?:custom_id|method|url|body|messages)"\s*:')


def detect_format(options: InputOptions, name: str, head: bytes, *, is_stream: bool) -> str:
    """Detect the format by the file's name, or by its first bytes, decompressed.

    An input that could be anything is refused, because each line would be sent as a prompt. A
    stream may have any name.
    """
    suffixes = [suffix.lower() for suffix in PurePath(options.path).suffixes]
    while suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    by_name = _FORMATS.get(suffix)
    if head.startswith(PARQUET_MAGIC) and by_name in {None, "parquet"}:
        return "parquet"
    if by_name is None and suffix and not is_stream:
        raise _format_error(
            f"the format of {name} is unknown: {suffix} is none of {', '.join(_FORMATS)}",
            _HINTS.get(suffix, ""),
        )
    if by_name != "parquet":
        for kind, what, hint in _BINARY:
            if kind.match(head):
                raise _format_error(f"{name} is {what}", hint)
    if by_name == "text" and _REQUESTS.match(head):
        raise _format_error(f"{name} seems to contain requests, not prompts")
    if by_name is not None:
        return by_name
    if _CODE.match(head):
        raise _format_error(f"{name} seems to contain code or markup, not prompts")
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
    copy_mode: CopyMode = "verify",
    is_abandoned: Callable[[], bool] = never,
    accept: Callable[[Source], object] | None = None,
) -> Source:
    """Open the input of a batch. Blocks.

    A pipe is copied to `spool`, so that it can be read again; with None it is read once, as it
    arrives. `is_abandoned` is polled while a pipe delivers nothing. `accept` may raise to refuse
    the input before its copy replaces that of an earlier run.
    """
    for name in options.members:
        if name not in MEMBERS:
            raise BatchInputInvalid(
                f"{name} is not a member of a request{suggest_nearest(name, MEMBERS)}",
                field="members",
            )
    if copy_mode == "replace" and spool is not None and spool.exists() and is_stream(options.path):
        _replace_copy(options, spool, is_abandoned, accept)
        return open_source(options, spool=spool, copy_mode="reuse")
    origin = _open_origin(options.path, spool, copy_mode, is_abandoned)
    try:
        format_name: str = options.format
        if format_name == "auto":
            format_name = detect_format(
                options,
                origin.name,
                read_beginning(origin),
                is_stream=not isinstance(origin, FileOrigin) or origin.is_copy,
            )
        source = _SOURCES[format_name](origin, options)
        if accept is not None:
            accept(source)
    except BaseException:
        origin.close()
        raise
    return source


@contextmanager
def open_seekable(options: InputOptions) -> Generator[Source]:
    """Open an input that can be read more than once: a pipe is copied to a temporary file."""
    with tempfile.TemporaryDirectory(prefix="foundry-api-") as directory:
        yield open_source(options, spool=Path(directory) / "input", copy_mode="replace")


def _replace_copy(
    options: InputOptions,
    spool: Path,
    is_abandoned: Callable[[], bool],
    accept: Callable[[Source], object] | None,
) -> None:
    """Replace the copy of an earlier run, which stays if the new input is refused."""
    draft = make_draft_path(spool)
    try:
        # This runs every check on the new input before it replaces the old copy.
        open_source(
            options, spool=draft, copy_mode="replace", is_abandoned=is_abandoned, accept=accept
        )
        replace_atomically(draft, spool)
    except OSError as error:
        why = error.strerror or str(error)
        raise BatchStorageFailed(f"{spool} cannot be replaced: {why}") from error
    finally:
        with suppress(OSError):  # it may not exist: renamed, or never created
            draft.unlink()


def _open_openai(origin: InputOrigin, options: InputOptions) -> Source:
    for name in ("column", "template", "system"):
        if getattr(options, name) is not None:
            raise BatchInputInvalid(
                f"{origin.name} contains whole requests, which take no {name}",
                field=name,
                hint="It is for prompts; if these are, give --format text, csv or parquet.",
            )
    return OpenAILines(origin, options)


def _open_parquet(origin: InputOrigin, options: InputOptions) -> Source:
    from foundry_api.batch.sources.parquet import ParquetRows  # noqa: PLC0415 - few inputs are Parquet

    return ParquetRows(origin, options)


_SOURCES: Mapping[str, Callable[[InputOrigin, InputOptions], Source]] = {
    "openai": _open_openai,
    "text": TextLines,
    "csv": CsvRows,
    "parquet": _open_parquet,
}


def _open_origin(
    path: str, spool: Path | None, copy_mode: CopyMode, is_abandoned: Callable[[], bool]
) -> InputOrigin:
    try:
        is_spooled = is_stream(path)
    except BatchInputInvalid:
        # A named pipe of an earlier run may be gone while its copy is still there.
        if copy_mode != "reuse" or spool is None or not spool.exists():
            raise
        is_spooled = True
    if is_spooled:
        return spool_stdin(path, spool, copy_mode, is_abandoned)
    origin = FileOrigin(Path(path).expanduser())
    origin.peek().close()  # fail now if it cannot be read
    return origin
