"""Keep the engine from pinning its threads to some of the CPUs.

The web service of SDK 2.x (oatpp's HttpConnectionHandler) pins the thread of each connection to the
CPUs 0 to N-2 of N, even in a process that is restricted to others. On two CPUs, every call then
runs on CPU 0 and the other one is idle.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
from typing import TYPE_CHECKING

from foundry_api.engine.host import log

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["use_all_cpus"]

ENGINE_LIBRARY = "libfoundry_local.so"

_PINNING_FUNCTION = b"pthread_setaffinity_np"
# Has no arguments and no effect. It returns 0, which the function above returns for success, as
# long as nothing has called pthread_setconcurrency.
_NO_OP_FUNCTION = "pthread_getconcurrency"

# Constants of dlfcn.h and elf.h. The latter are tags of the dynamic section.
_RTLD_DI_LINKMAP = 2
_DT_NULL, _DT_STRTAB, _DT_SYMTAB = 0, 5, 6
_RELOCATION_TABLES = ((23, 2), (7, 8))  # (DT_JMPREL, DT_PLTRELSZ), (DT_RELA, DT_RELASZ)
_SYMBOL_BYTES = 24


class _LinkMap(ctypes.Structure):
    """The first fields of `struct link_map` (link.h)."""

    _fields_ = (
        ("base", ctypes.c_size_t),
        ("path", ctypes.c_char_p),
        ("dynamic", ctypes.c_size_t),
    )


def use_all_cpus(library: str = ENGINE_LIBRARY) -> bool:
    """Keep a loaded library from pinning threads, which then keep the mask of the process.

    The library calls `pthread_setaffinity_np` through a slot in its table of imported functions,
    which is pointed at a function without effect. Other libraries have their own tables. Return
    False if there is no such slot: on macOS and Windows, or if a later version does not pin. On
    Linux the log of the host then says so, because the engine may be confined to some CPUs.
    """
    if sys.platform != "linux":
        return False
    try:
        slots = list(_find_slots(library))
        _redirect(slots)
    except (OSError, AttributeError, KeyError) as error:
        # The engine works all the same, only slower.
        log.write_line(f"the engine may leave CPUs unused: {error}")
        return False
    if not slots:
        log.write_line(
            "the engine may leave CPUs unused: "
            f"{library} does not import {_PINNING_FUNCTION.decode()}"
        )
    return bool(slots)


def _find_slots(library: str) -> Iterator[int]:
    """Yield the addresses of the slots for the pinning function in a loaded library."""
    if sys.maxsize < 2**32 or sys.byteorder != "little":
        raise OSError("this kind of processor is not supported")
    # RTLD_NOLOAD raises OSError for a library that is not loaded.
    handle = ctypes.CDLL(library, mode=os.RTLD_NOLOAD)._handle  # noqa: SLF001 - for dlinfo
    link_map = ctypes.POINTER(_LinkMap)()
    get_info = ctypes.CDLL(None).dlinfo
    if get_info(ctypes.c_void_p(handle), _RTLD_DI_LINKMAP, ctypes.byref(link_map)):
        raise OSError(f"{library} has no link map")
    base, at = link_map.contents.base, link_map.contents.dynamic
    tags: dict[int, int] = {}
    while (entry := struct.unpack("<QQ", ctypes.string_at(at, 16)))[0] != _DT_NULL:
        tags[entry[0]] = entry[1]
        at += 16

    def locate(tag: int) -> int:
        # glibc has added the base address to these entries, musl has not.
        return tags[tag] if tags[tag] >= base else base + tags[tag]

    names, symbols = locate(_DT_STRTAB), locate(_DT_SYMTAB)
    for table, size in _RELOCATION_TABLES:
        if table not in tags:
            continue
        entries = ctypes.string_at(locate(table), tags[size])
        for slot, info, _ in struct.iter_unpack("<QQq", entries):
            if not (symbol := info >> 32):  # most entries are about the library's own addresses
                continue
            name = ctypes.c_uint32.from_address(symbols + _SYMBOL_BYTES * symbol).value
            if ctypes.string_at(names + name) == _PINNING_FUNCTION:
                yield base + slot


def _redirect(slots: list[int]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    function = ctypes.cast(getattr(libc, _NO_OP_FUNCTION), ctypes.c_void_p)
    for slot in slots:
        # The table is read-only if the library was linked with `-z now`. The page stays writable.
        page = ctypes.c_void_p(slot - slot % mmap.PAGESIZE)
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        if libc.mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), protection):
            raise OSError(ctypes.get_errno(), "the table of imported functions is read-only")
        ctypes.c_void_p.from_address(slot).value = function.value
