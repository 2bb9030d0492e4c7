"""Answers as a table, in Parquet."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.errors import BatchStorageFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["write_parquet"]

GROUP_ROWS = 8192
GROUP_BYTES = 8 * 1024 * 1024
"""Rows of a group are in memory together; embeddings make long ones."""

COLUMNS = ("custom_id", "content", "response")


def write_parquet(lines: Iterable[bytes], path: Path) -> None:
    """Write answers as a table: what names them, their text, and the whole answer as JSON.

    Raises:
        BatchStorageFailed: pyarrow is not installed.
    """
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BatchStorageFailed(
            "Parquet needs pyarrow", hint="pip install 'foundry-api[batch]'"
        ) from error
    schema: Any = arrow.schema([(name, arrow.string()) for name in COLUMNS])
    with parquet.ParquetWriter(path, schema) as writer:
        for group in _groups(lines):
            writer.write_table(arrow.Table.from_pylist(group, schema=schema))
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _groups(lines: Iterable[bytes]) -> Iterator[list[dict[str, str | None]]]:
    group: list[dict[str, str | None]] = []
    size = 0
    for line in lines:
        group.append(_row(line))
        size += len(line)
        if len(group) >= GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _row(line: bytes) -> dict[str, str | None]:
    told = msgspec.json.decode(line)
    return {
        "custom_id": told["custom_id"],
        "content": _text(told["response"]["body"]),
        "response": msgspec.json.encode(told["response"]).decode(),
    }


def _text(body: dict[str, Any]) -> str | None:
    """What a model said, of a chat completion or a response; None where it said nothing."""
    if choices := body.get("choices"):
        content: str | None = choices[0]["message"].get("content")
        return content
    parts = [part for item in body.get("output") or () for part in item.get("content") or ()]
    texts = [part["text"] for part in parts if part.get("type") == "output_text"]
    return "".join(texts) if texts else None
