"""Which other users of the machine may read a file: mode bits, on Windows an access control list.

On Windows, a new directory is private if it is made with the mode 0o700 (Python 3.11.10, 3.12.4 and
later); what is made in it inherits that. Elsewhere it inherits the access of its parent, which is
private in a profile, and is not on most other drives.
"""

from __future__ import annotations

import re
import stat
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["describe_open_access", "find_readers", "make_private_command"]

OTHERS = stat.S_IRWXG | stat.S_IRWXO

# Groups that contain other users, by their abbreviations in a security descriptor.
# https://learn.microsoft.com/windows/win32/secauthz/sid-strings
_GROUPS = {
    "WD": "Everyone",
    "AU": "Authenticated Users",
    "BU": "Users",
    "BG": "Guests",
    "AN": "Anonymous",
    "IU": "Interactive",
    "NU": "Network",
}
# Kind, flags, rights, two identifiers of types, trustee; a condition may follow.
_ENTRY = re.compile(r"\((\w+);([^;]*);([^;]*);[^;]*;[^;]*;([^;()]*)")
_ALLOW = {"A", "XA"}
_INHERIT_ONLY = "IO"  # counts for what is made in a directory later, not for itself
_READ_NAMES = {"FA", "FR", "GA", "GR", "CC"}
_READ_BITS = 0x1 | 0x8000_0000 | 0x1000_0000  # FILE_READ_DATA, GENERIC_READ, GENERIC_ALL
_EVERYONE = "D:NO_ACCESS_CONTROL"


def find_readers(descriptor: str) -> list[str]:
    """Return the groups of other users that a security descriptor allows to read.

    `descriptor` is in Microsoft's string format: `D:PAI(A;OICI;FA;;;SY)(A;OICI;0x1200a9;;;BU)`.
    """
    if descriptor.startswith(_EVERYONE):
        return [_GROUPS["WD"]]
    readers: dict[str, None] = {}
    for kind, flags, rights, trustee in _ENTRY.findall(descriptor):
        if (
            kind in _ALLOW
            and trustee in _GROUPS
            and _INHERIT_ONLY not in _split_pairs(flags)
            and _allows_reading(rights)
        ):
            readers[_GROUPS[trustee]] = None
    return list(readers)


def _allows_reading(rights: str) -> bool:
    if rights.startswith("0x"):
        return bool(int(rights, 16) & _READ_BITS)
    return not _READ_NAMES.isdisjoint(_split_pairs(rights))


def _split_pairs(text: str) -> list[str]:
    return [text[at : at + 2] for at in range(0, len(text), 2)]


if sys.platform == "win32":
    import ctypes
    import getpass

    _FILE_OBJECT, _ACCESS_LIST, _REVISION = 1, 4, 1

    def describe_open_access(path: Path) -> str | None:
        """Say how other users may read a file or directory; None if they may not.

        Raises OSError.
        """
        readers = find_readers(_read_descriptor(path))
        return f"{path} can be read by {', '.join(readers)}" if readers else None

    def make_private_command(path: Path) -> str:
        """Return a command that leaves only this user the access to a file or directory."""
        scope = "(OI)(CI)" if path.is_dir() else ""
        return f'icacls "{path}" /inheritance:r /grant:r "{getpass.getuser()}:{scope}F"'

    def _read_descriptor(path: Path) -> str:
        security = ctypes.WinDLL("advapi32")
        kernel = ctypes.WinDLL("kernel32")
        descriptor, text = ctypes.c_void_p(), ctypes.c_wchar_p()
        code = security.GetNamedSecurityInfoW(
            ctypes.c_wchar_p(str(path)),
            *(_FILE_OBJECT, _ACCESS_LIST, None, None, None, None, ctypes.byref(descriptor)),
        )
        if code:
            raise ctypes.WinError(code)
        try:
            if not security.ConvertSecurityDescriptorToStringSecurityDescriptorW(
                descriptor, _REVISION, _ACCESS_LIST, ctypes.byref(text), None
            ):
                raise ctypes.WinError()
            return text.value or ""
        finally:
            kernel.LocalFree(descriptor)
            kernel.LocalFree(text)

else:
    import shlex

    def describe_open_access(path: Path) -> str | None:
        """Say how other users may read a file or directory; None if they may not.

        Raises OSError.
        """
        mode = stat.S_IMODE(path.stat().st_mode)
        return f"{path} has mode {mode:o}" if mode & OTHERS else None

    def make_private_command(path: Path) -> str:
        """Return a command that leaves only this user the access to a file or directory."""
        mode = stat.S_IMODE(path.stat().st_mode) & ~OTHERS
        return f"chmod {mode:o} {shlex.quote(str(path))}"
