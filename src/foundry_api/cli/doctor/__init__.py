"""`foundry-api doctor`: checks of this machine.

Each module has a group of checks; `runner.GROUPS` lists them. A check returns findings, each of a
kind that its module declares. `runner.run_checks` runs all checks concurrently.
"""

from __future__ import annotations

from foundry_api.cli.doctor.command import command

__all__ = ["command"]
