"""Starting child processes on every platform."""

from __future__ import annotations

import subprocess

__all__ = ["NO_WINDOW"]

# `creationflags` for Popen. Without it Windows opens a console window for each console program that
# a program without a console starts. The flag exists on Windows only.
NO_WINDOW: int = getattr(subprocess, "CREATE_NO_WINDOW", 0)
