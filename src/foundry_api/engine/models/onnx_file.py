"""Reads the weight files and the outputs of an ONNX graph, without the onnx package."""

# The weights are usually in separate files, which the graph's initializers name. Only the protobuf
# fields on the way there are read and the others are skipped, so a file of 2 GB costs a few reads.

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    # A field's number, and the start and the end of its content.
    Field = tuple[int, int, int]

__all__ = ["InvalidOnnx", "read_external_data", "read_outputs"]

# Field numbers of onnx.proto.
MODEL_GRAPH = 7
GRAPH_INITIALIZER, GRAPH_OUTPUT = 5, 12
VALUE_NAME = 1
TENSOR_EXTERNAL = 13
ENTRY_KEY, ENTRY_VALUE = 1, 2

# Wire types of protobuf.
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_MAX_TEXT_BYTES = 4096
MAX_INITIALIZERS = 1_000_000


class InvalidOnnx(Exception):
    """The file is not an ONNX graph, or only a part of one."""


def read_external_data(path: Path) -> dict[str, int]:
    """Return the files that hold a graph's weights, with the size that each needs to have."""
    with path.open("rb") as file:
        needed: dict[str, int] = {}
        for _, start, stop in _find_graphs(file):
            for name, size in _iter_external_tensors(file, start, stop):
                needed[name] = max(size, needed.get(name, 0))
        return needed


def read_outputs(path: Path) -> frozenset[str]:
    """Return the names of a graph's outputs."""
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
        raise InvalidOnnx("it has no graph")
    return graphs


def _iter_external_tensors(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[str, int]]:
    """Yield the file and the end offset of each initializer that is in another file."""
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
    """Yield the fields of a message; raises InvalidOnnx if the bytes are not a whole message."""
    position = start
    while position < stop:
        # The caller moves the file's position between two fields, to read within them.
        file.seek(position)
        key = _read_varint(file)
        number, wire_type = key >> 3, key & 7
        length = _read_length(file, wire_type)
        begin = file.tell()
        position = begin + length
        if not number or position > stop:
            raise InvalidOnnx("its bytes are not protobuf, or end too early")
        yield number, begin, position


def _read_length(file: BinaryIO, wire_type: int) -> int:
    if wire_type == _BYTES:
        return _read_varint(file)
    if wire_type == _VARINT:
        _read_varint(file)  # skips the value, which leaves an empty field
        return 0
    if wire_type in {_FIXED_32, _FIXED_64}:
        return 4 if wire_type == _FIXED_32 else 8
    raise InvalidOnnx("its bytes are not protobuf")


def _read_varint(file: BinaryIO) -> int:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        byte = file.read(1)
        if not byte:
            raise InvalidOnnx("it ends too early")
        value |= (byte[0] & 0x7F) << (7 * index)
        if not byte[0] & 0x80:
            return value
    raise InvalidOnnx("its bytes are not protobuf")
