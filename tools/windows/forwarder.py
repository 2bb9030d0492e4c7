"""Write a Windows DLL without code, all of whose exports are another DLL's.

Wine 8 lacks `bcryptprimitives.dll`, from which some wheels import one function that another DLL has
under another name.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["write_forwarder"]

FILE_ALIGNMENT, SECTION_ALIGNMENT = 0x200, 0x1000
DIRECTORY_BYTES = 40


def write_forwarder(path: Path, exports: Mapping[str, str]) -> None:
    """Write a DLL with `exports`: the name of a function, and `DLL.FUNCTION` that it stands for."""
    section = _make_exports(path.name, exports)
    padded = -(-len(section) // FILE_ALIGNMENT) * FILE_ALIGNMENT
    header = _make_header(len(section), padded)
    path.write_bytes(header.ljust(FILE_ALIGNMENT, b"\0") + section.ljust(padded, b"\0"))


def _make_exports(name: str, exports: Mapping[str, str]) -> bytes:
    """Make the section `.edata`: directory, addresses, names, ordinals, texts."""
    count = len(exports)
    functions = SECTION_ALIGNMENT + DIRECTORY_BYTES
    names = functions + 4 * count
    ordinals = names + 4 * count
    texts_at = ordinals + 2 * count
    texts = bytearray()

    def add(text: str) -> int:
        address = texts_at + len(texts)
        texts.extend(text.encode() + b"\0")
        return address

    own_name = add(name)
    # The loader looks names up by bisection. An address inside the section marks a forwarder.
    exported = [add(export) for export in sorted(exports)]
    targets = [add(exports[export]) for export in sorted(exports)]
    directory = struct.pack(
        "<IIHHIIIIIII", 0, 0, 0, 0, own_name, 1, count, count, functions, names, ordinals
    )
    addresses = struct.pack(f"<{2 * count}I", *targets, *exported)
    return directory + addresses + struct.pack(f"<{count}H", *range(count)) + bytes(texts)


def _make_header(size: int, padded: int) -> bytes:
    """Make the headers of a DLL for x64 with one section of constants."""
    dos = b"MZ" + bytes(58) + struct.pack("<I", 64)
    coff = struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, 240, 0x2022)
    optional = struct.pack("<HBBIIIII", 0x20B, 14, 0, 0, padded, 0, 0, SECTION_ALIGNMENT)
    optional += struct.pack(
        "<QIIHHHHHHIIIIHH",
        0x180000000,
        SECTION_ALIGNMENT,
        FILE_ALIGNMENT,
        *(6, 0, 0, 0, 6, 0, 0),
        2 * SECTION_ALIGNMENT,
        FILE_ALIGNMENT,
        0,
        2,
        0x160,
    )
    optional += struct.pack("<QQQQII", 1 << 20, 0x1000, 1 << 20, 0x1000, 0, 16)
    optional += struct.pack("<II", SECTION_ALIGNMENT, size) + bytes(15 * 8)
    section = struct.pack(
        "<8sIIIIIIHHI",
        b".edata",
        size,
        SECTION_ALIGNMENT,
        padded,
        FILE_ALIGNMENT,
        *(0, 0, 0, 0),
        0x40000040,
    )
    return dos + b"PE\0\0" + coff + optional + section
