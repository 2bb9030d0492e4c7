"""The CPU time of another process grows while it works."""

import ctypes
import subprocess
import sys
import time
from pathlib import Path

WORK = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
WORK_S = 3
QUERY_LIMITED_INFORMATION = 0x1000

kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined] # Windows only
kernel.OpenProcess.restype = ctypes.c_void_p
# sys.executable may be the launcher of a virtual environment.
with subprocess.Popen([Path(sys.base_prefix, "python.exe"), "-c", WORK]) as process:
    handle = ctypes.c_void_p(kernel.OpenProcess(QUERY_LIMITED_INFORMATION, 0, process.pid))
    time.sleep(WORK_S)
    times = [ctypes.c_ulonglong() for _ in range(4)]  # in units of 100 ns; the last two are spent
    kernel.GetProcessTimes(handle, *map(ctypes.byref, times))
    process.kill()
spent_s = (times[2].value + times[3].value) / 1e7
if spent_s < WORK_S / 10:
    raise SystemExit(f"{spent_s} s of CPU time after {WORK_S} s of work")
