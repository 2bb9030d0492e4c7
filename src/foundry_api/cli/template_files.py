"""The directory of the user's prompt templates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.cli.user_config import get_config_path
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SUFFIXES", "get_template_directory", "list_templates"]

SUFFIXES = (".toml", ".txt", ".md")


def list_templates() -> dict[str, Path]:
    """Return the files in the user's directory by name."""
    directory = get_template_directory()
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InvalidRequest(f"{directory} cannot be read: {error.strerror}") from error
    return {path.stem: path for path in files}


def get_template_directory() -> Path:
    return get_config_path().with_name("templates")
