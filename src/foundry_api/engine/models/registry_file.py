"""Reads the file in which an engine stores the registered model directories.

For use where no engine may be started. The format is that of 2.2.1 and is not documented.
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
    "SOURCE",
    "ModelInfo",
    "Registered",
    "check_readable",
    "find_damage",
    "get_registry_path",
    "make_damage_error",
    "read_registered",
]

# The property of a registration that has the user's directory, if the engine has another one
# (engine/models/tuning.py).
SOURCE = "foundry_api_directory"

RELATIVE_PATH = Path("cache", "models", "foundry.local.modelinfo.json")
MAX_BYTES = 16 * 2**20


class ModelInfo(msgspec.Struct, frozen=True, rename="camel"):
    """A model's id, its alias, and the properties of its registration."""

    id: str
    alias: str = ""
    string_properties: dict[str, Any] = {}


class Registered(msgspec.Struct, frozen=True):
    """A registered model directory."""

    model_info: ModelInfo
    model_path: str = ""

    @property
    def directory(self) -> Path:
        """The user's directory; the engine may have another one."""
        return Path(self.model_info.string_properties.get(SOURCE) or self.model_path)


class _File(msgspec.Struct, frozen=True):
    models: list[Registered]


def get_registry_path(paths: Paths) -> Path:
    return paths.data / RELATIVE_PATH


def check_readable(data: Path) -> None:
    """Raise ConfigurationError if the file in an engine's directory is unreadable or not JSON."""
    # With such a file the engine would answer 500 to every request, and if it is a pipe, hang. The
    # structure of the JSON is not checked, because a newer engine may write another one.
    path = data / RELATIVE_PATH
    try:
        content = _read(path)
        if content is not None:
            _decode(content, Any)
    except (OSError, ValueError) as error:
        raise make_damage_error(path, _describe_problem(error)) from error


def make_damage_error(path: Path, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"the list of registered models {path} cannot be read: {problem}",
        hint=f"Move {path} away, end a shared engine with `foundry-api down`, and register your"
        " models again with `foundry-api models register`.",
    )


def find_damage(paths: Paths) -> str | None:
    """Return what is wrong with the file; None if it is valid."""
    try:
        read_registered(paths)
    except (OSError, ValueError) as error:
        return _describe_problem(error)
    return None


def read_registered(paths: Paths) -> list[Registered]:
    """Read the registrations; raises OSError, or ValueError if the file is damaged."""
    content = _read(get_registry_path(paths))
    if content is None:  # no engine has run yet
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
    # An OSError's own text repeats the path, which the caller's message has already.
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
