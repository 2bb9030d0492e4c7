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
    "RELATIVE_PATH",
    "ModelInfo",
    "Registered",
    "check_readable",
    "find_damage",
    "get_registry_path",
    "make_damage_error",
    "read_registered",
]

RELATIVE_PATH = Path("cache", "models", "foundry.local.modelinfo.json")
MAX_BYTES = 16 * 2**20


class ModelInfo(msgspec.Struct, frozen=True, rename="camel"):
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

    model_info: ModelInfo
    model_path: str = ""


class _File(msgspec.Struct, frozen=True):
    models: list[Registered]


def get_registry_path(paths: Paths) -> Path:
    """Where the file lies."""
    return paths.data / RELATIVE_PATH


def check_readable(data: Path) -> None:
    """Refuse a file that no engine can read: one answers 500 to every call, and waits for a pipe.

    Whether its content has the form that the engine writes is left to the engine: a newer one may
    write another.

    Args:
        data: The directory of the engine's own files.

    Raises:
        ConfigurationError: It cannot be read, or is not JSON.
    """
    path = data / RELATIVE_PATH
    try:
        content = _read(path)
        if content is not None:
            _decode(content, Any)
    except (OSError, ValueError) as error:
        raise make_damage_error(path, _describe_problem(error)) from error


def make_damage_error(path: Path, problem: str) -> ConfigurationError:
    """The error for a file that cannot be used."""
    return ConfigurationError(
        f"the list of registered models {path} cannot be read: {problem}",
        hint=f"Move {path} away, end a shared engine with `foundry-api down`, and register your"
        " models again with `foundry-api models register`.",
    )


def find_damage(paths: Paths) -> str | None:
    """What is wrong with the file; None if nothing is."""
    try:
        read_registered(paths)
    except (OSError, ValueError) as error:
        return _describe_problem(error)
    return None


def read_registered(paths: Paths) -> list[Registered]:
    """What is registered; nothing before an engine ran.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged.
    """
    content = _read(get_registry_path(paths))
    if content is None:
        return []
    file: _File = _decode(content, _File)
    return file.models


def _decode(content: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(content, type=kind)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _read(path: Path) -> bytes | None:
    try:
        return read_file(path, MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _describe_problem(error: OSError | ValueError) -> str:
    """What an error says, without a path that its reader knows."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
