"""A file in a directory that only this user can read must not be readable for everyone."""

import ctypes
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as name:
    directory = Path(name) / "private"
    directory.mkdir(mode=0o700)
    file = directory / "file"
    file.touch()
    descriptor, text = ctypes.c_void_p(), ctypes.c_wchar_p()
    advapi = ctypes.WinDLL("advapi32")  # type: ignore[attr-defined] # Windows only
    advapi.GetNamedSecurityInfoW(
        ctypes.c_wchar_p(str(file)), 1, 4, None, None, None, None, ctypes.byref(descriptor)
    )
    advapi.ConvertSecurityDescriptorToStringSecurityDescriptorW(
        descriptor, 1, 4, ctypes.byref(text), None
    )
    if ";;;WD)" in str(text.value):
        raise SystemExit(f"everyone may read the file: {text.value}")
