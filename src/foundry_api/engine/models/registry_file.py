"""The file in which an engine keeps the directories that are registered with it.

It is read where no engine may be started. Seen in 2.2.1; it is not documented.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.storage.private_file import read_file
from foundry_api.types.errors import ConfigurationError

if TYPE_CHECKING:
    from foundry_api.storage.paths import Paths

__all__ = [
    "BELOW_DATA",
    "Info",
    "Registered",
    "damage_of",
    "damaged",
    "refuse_unreadable",
    "registered",
    "registry_file",
]

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


def refuse_unreadable(data: Path) -> None:
    """Refuse a file that no engine can read: one answers 500 to every call, and waits for a pipe.

    Whether its content has the form that the engine writes is left to the engine: a newer one may
    write another.

    Args:
        data: The directory of the engine's own files.

    Raises:
        ConfigurationError: It cannot be read, or is not JSON.
    """
    path = data / BELOW_DATA
    try:
        content = _read(path)
        if content is not None:
            _decoded(content, Any)
    except (OSError, ValueError) as error:
        raise damaged(path, _problem(error)) from error


def damaged(path: Path, problem: str) -> ConfigurationError:
    """The error for a file that cannot be used."""
    return ConfigurationError(
        f"the list of registered models {path} cannot be read: {problem}",
        hint=f"Move {path} away, end a shared engine with `foundry-api down`, and register your"
        " models again with `foundry-api models add`.",
    )


def damage_of(paths: Paths) -> str | None:
    """What is wrong with the file; None if nothing is."""
    try:
        registered(paths)
    except (OSError, ValueError) as error:
        return _problem(error)
    return None


def registered(paths: Paths) -> list[Registered]:
    """What is registered; nothing before an engine ran.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged.
    """
    content = _read(registry_file(paths))
    if content is None:
        return []
    file: _File = _decoded(content, _File)
    return file.models


def _decoded(content: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(content, type=kind)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _read(path: Path) -> bytes | None:
    try:
        return read_file(path, MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _problem(error: OSError | ValueError) -> str:
    """What an error says, without a path that its reader knows."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
