"""Starting child processes on every platform."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["BACKGROUND_FLAGS", "NO_WINDOW", "make_module_command"]

# `creationflags` for Popen. Without it Windows opens a console window for each console program that
# a program without a console starts. The flag exists on Windows only.
NO_WINDOW: int = getattr(subprocess, "CREATE_NO_WINDOW", 0)

# Also not in the parent's console group, whose Ctrl-C it would get. 0 on other systems.
BACKGROUND_FLAGS: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | NO_WINDOW

# The root is that of the parent's own copy: it may be on a path that only the parent has, and both
# sides must have the same version.
_ROOT = str(Path(__file__).resolve().parents[2])


def make_module_command(module: str, python: str = sys.executable) -> list[str]:
    """Return the command that calls `main` of a module of this package; arguments may follow."""
    bootstrap = (
        "import sys; root = sys.argv.pop(1); root in sys.path or sys.path.insert(0, root); "
        f"from {module} import main; main()"
    )
    # With -P, so that no module in the caller's working directory hides one of this package.
    return [python, "-P", "-c", bootstrap, _ROOT]
