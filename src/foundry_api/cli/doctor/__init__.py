"""Doctor: what is wrong on this machine, and how to mend it.

A group of checks is a module; `runner.GROUPS` lists them. A check looks at the machine and returns
findings, each of a kind that its module declares. `runner.examine` runs them all at once.
"""

from __future__ import annotations

from foundry_api.cli.doctor.command import command

__all__ = ["command"]
