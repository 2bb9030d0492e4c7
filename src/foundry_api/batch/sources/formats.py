"""What an input is, by its name or its beginning. What may be anything is not asked."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import TYPE_CHECKING

from foundry_api.batch.sources.json_array import begins_array
from foundry_api.batch.sources.reading import PARQUET_MAGIC
from foundry_api.errors import BatchInputInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foundry_api.batch.options import InputOptions

__all__ = ["format_of"]

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
_HINT = "Say what it is with --format openai, text, csv or parquet."
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


def format_of(options: InputOptions, name: str, head: bytes, *, is_stream: bool) -> str:
    """The format that the name tells, else the content.

    Args:
        options: What was given; no format.
        name: What messages call the input.
        head: How it begins, decompressed.
        is_stream: Whether it is a pipe, whose name says nothing.

    Raises:
        BatchInputInvalid: It may be anything, or is not what its name says.
    """
    suffix = _suffix(options.path)
    by_name = _FORMATS.get(suffix)
    if head.startswith(PARQUET_MAGIC) and by_name in {None, "parquet"}:
        return "parquet"
    if by_name is None and suffix and not is_stream:
        raise _unknown(
            f"what {name} holds is not known: {suffix} is none of {', '.join(_FORMATS)}",
            _HINTS.get(suffix, ""),
        )
    if by_name != "parquet":
        _refuse_binary(name, head)
    if by_name == "text" and _REQUESTS.match(head):
        raise _unknown(f"{name} seems to hold requests, not prompts")
    return by_name or _format_of_content(options, name, head)


def _suffix(path: str) -> str:
    parts = [part.lower() for part in PurePath(path).suffixes]
    while parts and parts[-1] in _COMPRESSED:
        parts.pop()
    return parts[-1] if parts else ""


def _refuse_binary(name: str, head: bytes) -> None:
    for kind, what, hint in _BINARY:
        if kind.match(head):
            raise _unknown(f"{name} is {what}", hint)


def _format_of_content(options: InputOptions, name: str, head: bytes) -> str:
    if _CODE.match(head):
        raise _unknown(f"{name} seems to hold code or markup, not prompts")
    if head.lstrip().startswith(b"{") or begins_array(head):
        return "openai"
    if _EXCEL.match(head):
        return "csv"
    return "text" if options.column is None else "csv"


def _unknown(message: str, hint: str = "") -> BatchInputInvalid:
    return BatchInputInvalid(message, field="format", hint=f"{hint} {_HINT}".strip())
