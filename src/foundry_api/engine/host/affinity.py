"""Keep the engine from pinning its threads to some of the CPUs.

The web service of SDK 2.x (oatpp's HttpConnectionHandler) pins the thread of each connection to all
CPUs but the last one. On two CPUs, every call then runs on CPU 0 and the other one is idle.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ENGINE_LIBRARY", "use_all_cpus"]

log = logging.getLogger("foundry_api")

ENGINE_LIBRARY = "libfoundry_local.so"

_PINNING_FUNCTION = b"pthread_setaffinity_np\0"
# Ignores its arguments, has no effect, and returns 0, which is success for the function above.
_NO_OP_FUNCTION = "pthread_getconcurrency"

# ELF constants (elf.h), for 64-bit little-endian files: segments, and tags of the dynamic section.
_ELF_64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_STRTAB, _DT_SYMTAB = 5, 6
_RELOCATION_TABLES = ((23, 2), (7, 8))  # (DT_JMPREL, DT_PLTRELSZ), (DT_RELA, DT_RELASZ)
_SEGMENT_BYTES, _SYMBOL_BYTES = 56, 24
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE if sys.platform != "win32" else 0


def use_all_cpus(library: str = ENGINE_LIBRARY) -> bool:
    """Let the threads that a loaded library will start use all CPUs of this process.

    The library calls `pthread_setaffinity_np` through a slot in its table of imported functions,
    which is pointed at a function without effect. Threads then keep the mask of the process, which
    its owner may have restricted. Return False if there is no such slot: on macOS and Windows, in
    1.x, or when a later version stops pinning.
    """
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
        return False
    try:
        for path, base in _find_mappings(library):
            slots = [base + offset for offset in _find_slots(path)]
            _redirect(slots)
            return bool(slots)
    except (OSError, ValueError, KeyError, struct.error) as error:
        # Not worth failing for: the engine works, only slower.
        log.warning("the engine may leave CPUs unused: %s", error)
    return False


def _find_mappings(library: str) -> Iterator[tuple[Path, int]]:
    """Yield the path of a loaded library, and the address of its first byte."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        addresses, _, offset, _, _, *path = line.split(maxsplit=5)  # the path may have spaces
        if path and Path(path[0]).name == library and not int(offset, 16):
            yield Path(path[0]), int(addresses.partition("-")[0], 16)


def _find_slots(path: Path) -> list[int]:
    """Return the offsets of the slots for the pinning function, from the tables of an ELF file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        if image[:6] != _ELF_64_LITTLE_ENDIAN:
            return []
        [table_at], [count] = (
            struct.unpack_from("<Q", image, 32),
            struct.unpack_from("<H", image, 56),
        )
        segments = [
            struct.unpack_from("<IIQQQQ", image, table_at + _SEGMENT_BYTES * number)
            for number in range(count)
        ]

        def to_file_offset(address: int) -> int:
            for kind, _, offset, start, _, size in segments:
                if kind == _PT_LOAD and start <= address < start + size:
                    return int(address - start + offset)
            raise ValueError(f"{path.name} has no segment at {address:#x}")

        [(dynamic_at, dynamic_size)] = [(s[2], s[5]) for s in segments if s[0] == _PT_DYNAMIC]
        tags = dict(struct.iter_unpack("<QQ", image[dynamic_at : dynamic_at + dynamic_size]))
        names, symbols = to_file_offset(tags[_DT_STRTAB]), to_file_offset(tags[_DT_SYMTAB])
        slots: list[int] = []
        for start_tag, size_tag in _RELOCATION_TABLES:
            if start_tag not in tags:
                continue
            at = to_file_offset(tags[start_tag])
            for slot, info, _ in struct.iter_unpack("<QQq", image[at : at + tags[size_tag]]):
                if not (symbol := info >> 32):  # most entries are about the library's own addresses
                    continue
                [name] = struct.unpack_from("<I", image, symbols + _SYMBOL_BYTES * symbol)
                end = names + name + len(_PINNING_FUNCTION)
                if image[names + name : end] == _PINNING_FUNCTION:
                    slots.append(slot)
        return slots


def _redirect(slots: list[int]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    function = ctypes.cast(getattr(libc, _NO_OP_FUNCTION), ctypes.c_void_p)
    for slot in slots:
        # A library that was linked with `-z now` has a read-only table.
        page = slot - slot % mmap.PAGESIZE
        if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), _READ_WRITE):
            raise OSError(ctypes.get_errno(), "the table of imported functions is read-only")
        ctypes.memmove(slot, ctypes.byref(function), ctypes.sizeof(function))
