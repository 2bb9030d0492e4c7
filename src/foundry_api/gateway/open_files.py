"""How many files this process may open. Every connection is one."""

from __future__ import annotations

import contextlib
import sys

if sys.platform != "win32":
    import resource

__all__ = ["RESERVED_FILES", "get_max_open_files", "raise_max_open_files"]

# For databases, logs, the connections to the engine, and the pipes to its process.
RESERVED_FILES = 256


def get_max_open_files() -> int | None:
    """Return how many files this process may open; None without a limit, as on Windows."""
    if sys.platform == "win32":
        return None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def raise_max_open_files(needed: int) -> None:
    """Raise the limit of this process to `needed`, or as far as the system allows."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    # macOS refuses more than its own maximum, also if the limit is infinite.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
