"""The file in which an engine keeps the directories that are registered with it.

It is read where no engine may be started. Seen in 2.2.1; it is not documented.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from foundry_api.service.paths import Paths

__all__ = ["Info", "Registered", "registered", "registry_file"]

BELOW_DATA = Path("cache", "models", "foundry.local.modelinfo.json")
MAX_BYTES = 16 * 2**20


class Info(msgspec.Struct, frozen=True, rename="camel"):
    """What is told of a model.

    Attributes:
        id: Its full name.
        alias: Its short name; empty without one.
        string_properties: What it was registered with.
    """

    id: str
    alias: str = ""
    string_properties: dict[str, Any] = {}


class Registered(msgspec.Struct, frozen=True):
    """A registered directory.

    Attributes:
        model_info: What is told of it.
        model_path: Where it lies.
    """

    model_info: Info
    model_path: str = ""


class _File(msgspec.Struct, frozen=True):
    models: list[Registered]


def registry_file(paths: Paths) -> Path:
    """Where the file lies."""
    return paths.data / BELOW_DATA


def registered(paths: Paths) -> list[Registered]:
    """What is registered; nothing before an engine ran.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged.
    """
    try:
        with registry_file(paths).open("rb") as file:
            return msgspec.json.decode(file.read(MAX_BYTES), type=_File).models
    except (FileNotFoundError, NotADirectoryError):
        return []
