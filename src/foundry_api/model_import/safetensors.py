"""Reads the headers of safetensors files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.wire.errors import NOT_JSON

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["InvalidSafetensors", "Tensor", "read_tensors"]

LENGTH_BYTES = 8
# The limit of the safetensors library itself.
MAX_HEADER_BYTES = 100_000_000
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class InvalidSafetensors(ValueError):
    """The file is not a complete safetensors file. The message has no full stop."""


class Tensor(msgspec.Struct, frozen=True):
    """The type, the shape and the place of a tensor."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the header of a file and check that the file has all of its bytes.

    Raises:
        InvalidSafetensors: The header is damaged, or the file is too short.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(len(LFS_POINTER))
        if head == LFS_POINTER:
            raise InvalidSafetensors(
                "it is a pointer of Git LFS; get the file itself with `git lfs pull`"
            )
        length = int.from_bytes(head[:LENGTH_BYTES], "little")
        if len(head) < LENGTH_BYTES or length > min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
            raise InvalidSafetensors("it is not a safetensors file, or it ends too early")
        file.seek(LENGTH_BYTES)
        header = file.read(length)
    try:
        members = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        members.pop("__metadata__", None)
        tensors = {name: _decode(member) for name, member in members.items()}
    except NOT_JSON as error:
        raise InvalidSafetensors(f"its header is damaged ({error})") from error
    needed = LENGTH_BYTES + length + max((t.data_offsets[1] for t in tensors.values()), default=0)
    if size < needed:
        raise InvalidSafetensors(
            f"it has {size} bytes and needs {needed}: the copy may be incomplete"
        )
    return tensors


def _decode(member: Any) -> Tensor:
    return msgspec.json.decode(member, type=Tensor)
