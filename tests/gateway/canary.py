"""Finds keys and prompts of the tests where they must not be: logs, files, metrics and status.

Every test of the gateway is watched, not only those that look for it. The tokens of its keys are
known by their form. Its prompts are known by the keywords of the scripted model, and by CANARY.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from gateway.keys.helpers import has_checksum
from support.scripted_model import ALL_SCRIPTS

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CANARY", "CANARY_KEY", "CanaryHandler", "find_in_files", "find_secrets"]

CANARY = "canary-9d41f7"
CANARY_KEY = f"sk-{CANARY}"

_PROMPTS = "|".join(sorted((one.keyword for one in ALL_SCRIPTS), key=len, reverse=True))
_SECRETS = re.compile(f"fk_[0-9a-z]{{8}}_[0-9A-Za-z]{{51}}|{CANARY}|{_PROMPTS}".encode())


def find_secrets(text: str | bytes) -> set[str]:
    """Return the keys and prompts in a text."""
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    found = {match.decode() for match in _SECRETS.findall(data)}
    return {one for one in found if not one.startswith("fk_") or has_checksum(one)}


def find_in_files(directory: Path) -> list[str]:
    """Return the files below a directory that have keys or prompts."""
    return [
        f"{path.relative_to(directory).as_posix()} has {sorted(found)}"
        for path in sorted(directory.rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and path.parent.name != "files"  # what clients uploaded, and what was answered
        and (found := find_secrets(path.read_bytes()))
    ]


class CanaryHandler(logging.Handler):
    """Looks into every log record, with its traceback.

    Attributes:
        found: The records that have keys or prompts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if found := find_secrets(text):
            self.found.append(f"the log has {sorted(found)}: {text}")
