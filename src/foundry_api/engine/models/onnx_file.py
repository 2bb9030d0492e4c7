"""What an ONNX file names: the files of its weights, and its outputs. Read without onnx.

Weights are usually kept beside the graph, in files that its initializers name. Of the protobuf
only the way there is read, and what lies between is passed over: a file of 2 GB costs a few reads.
The field numbers are those of onnx.proto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    Field = tuple[int, int, int]
    """Its number, where its content begins, and where that ends."""

__all__ = ["InvalidOnnx", "read_external_data", "read_outputs"]

MODEL_GRAPH = 7
GRAPH_INITIALIZER, GRAPH_OUTPUT = 5, 12
VALUE_NAME = 1
TENSOR_EXTERNAL = 13
ENTRY_KEY, ENTRY_VALUE = 1, 2

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_MAX_TEXT_BYTES = 4096
MAX_INITIALIZERS = 1_000_000


class InvalidOnnx(Exception):
    """The file is no ONNX graph."""


def read_external_data(path: Path) -> dict[str, int]:
    """The files that a graph's initializers lie in, with the bytes that each needs to have.

    Raises:
        InvalidOnnx: The file is no ONNX graph, or only a part of one.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        needed: dict[str, int] = {}
        for _, start, stop in _find_graphs(file):
            for name, size in _iter_tensors(file, start, stop):
                needed[name] = max(size, needed.get(name, 0))
        return needed


def read_outputs(path: Path) -> frozenset[str]:
    """The names of what a graph puts out.

    Raises:
        InvalidOnnx: The file is no ONNX graph, or only a part of one.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        values = [
            value
            for _, start, stop in _find_graphs(file)
            for value in _iter_fields(file, start, stop)
            if value[0] == GRAPH_OUTPUT
        ]
        return frozenset(
            _read_text(file, *place)
            for _, start, stop in values
            for number, *place in _iter_fields(file, start, stop)
            if number == VALUE_NAME
        )


def _find_graphs(file: BinaryIO) -> list[Field]:
    graphs = [field for field in _iter_fields(file, 0, file.seek(0, 2)) if field[0] == MODEL_GRAPH]
    if not graphs:
        raise InvalidOnnx("it holds no graph")
    return graphs


def _iter_tensors(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[str, int]]:
    """File and end of each initializer that lies in another file."""
    initializers = [
        field for field in _iter_fields(file, start, stop) if field[0] == GRAPH_INITIALIZER
    ]
    for _, begin, end in initializers[:MAX_INITIALIZERS]:
        entries = [field for field in _iter_fields(file, begin, end) if field[0] == TENSOR_EXTERNAL]
        members = dict(_parse_external_entry(file, *place) for _, *place in entries)
        if "location" in members:
            yield (
                members["location"],
                _parse_number(members.get("offset")) + _parse_number(members.get("length")),
            )


def _parse_external_entry(file: BinaryIO, start: int, stop: int) -> tuple[str, str]:
    texts = {
        number: _read_text(file, begin, end)
        for number, begin, end in _iter_fields(file, start, stop)
    }
    return texts.get(ENTRY_KEY, ""), texts.get(ENTRY_VALUE, "")


def _read_text(file: BinaryIO, start: int, stop: int) -> str:
    if stop - start > _MAX_TEXT_BYTES:
        raise InvalidOnnx(f"a name in it is longer than {_MAX_TEXT_BYTES} bytes")
    file.seek(start)
    return file.read(stop - start).decode("utf-8", "replace")


def _parse_number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _iter_fields(file: BinaryIO, start: int, stop: int) -> Iterator[Field]:
    """The fields of a message. Those without a length are told as empty.

    Raises:
        InvalidOnnx: The bytes are no message, or end within one.
    """
    at = start
    while at < stop:
        file.seek(at)
        key = _read_varint(file)
        number, kind = key >> 3, key & 7
        length = _read_length(file, kind)
        begin = file.tell()
        at = begin + length
        if not number or at > stop:
            raise InvalidOnnx("its bytes are no protobuf, or end too early")
        yield number, begin, at


def _read_length(file: BinaryIO, kind: int) -> int:
    if kind == _BYTES:
        return _read_varint(file)
    if kind == _VARINT:
        _read_varint(file)
        return 0
    if kind in {_FIXED_32, _FIXED_64}:
        return 4 if kind == _FIXED_32 else 8
    raise InvalidOnnx("its bytes are no protobuf")


def _read_varint(file: BinaryIO) -> int:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        byte = file.read(1)
        if not byte:
            raise InvalidOnnx("it ends too early")
        value |= (byte[0] & 0x7F) << (7 * index)
        if not byte[0] & 0x80:
            return value
    raise InvalidOnnx("its bytes are no protobuf")
