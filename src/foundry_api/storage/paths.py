"""The directories that an engine host works in."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from foundry_api.types.errors import ConfigurationError
from foundry_api.types.local_path import absolute_path

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PRIVATE_DIRECTORY", "Paths"]

APP_NAME = "foundry-api"
PRIVATE_DIRECTORY = 0o700
"""State and logs name a port without authentication and a token: other users must not read them."""

OTHERS = stat.S_IRWXG | stat.S_IRWXO
OWN_NAMES = ("host.json", "host.lock", "uses.db", "host-*.log", "foundry.*modelinfo.json")


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things lie. Nothing is created until it is used.

    Attributes:
        data: The engine's own: its model cache and the registrations of local models.
        logs: One log file for each start of a host, and the engine's own.
        state: The shared host's state file and its lock, and who uses which model.
        cache: Answers that were kept.
    """

    data: Path
    logs: Path
    state: Path
    cache: Path

    @classmethod
    def from_home(cls, home: Path | None = None) -> Paths:
        """The directories below `home`, or the user's own of the platform without one.

        All are absolute, whatever `home` and the variables of the platform say: the host works in
        another directory.

        Raises:
            ConfigurationError: One of them cannot be made absolute.
        """
        if home is not None:
            root = _make_absolute(home)
            return cls(
                data=root / "engine",
                logs=root / "logs",
                state=root / "state",
                cache=root / "cache",
            )
        import platformdirs  # noqa: PLC0415 - 10 ms that a caller with a home need not spend

        own = platformdirs.PlatformDirs(APP_NAME, appauthor=False)
        return cls(
            data=_make_absolute(own.user_data_path) / "engine",
            logs=_make_absolute(own.user_log_path),
            state=_make_absolute(own.user_state_path) / "state",
            cache=_make_absolute(own.user_cache_path),
        )

    def create(self) -> Paths:
        """Make the directories, for this user only, and return self.

        Raises:
            ConfigurationError: One of them cannot be made.
        """
        for directory in (self.data, self.logs, self.state):
            try:
                _make_private(directory)
            except OSError as error:
                raise ConfigurationError(
                    f"{directory} cannot be used: {error.strerror}",
                    hint="Set FOUNDRY_HOME to a directory that you can write to.",
                ) from error
        return self

    @property
    def state_file(self) -> Path:
        """The shared host's state."""
        return self.state / "host.json"

    @property
    def usage_file(self) -> Path:
        """Who uses which model of which service."""
        return self.state / "uses.db"

    @property
    def cache_file(self) -> Path:
        """Answers that were kept."""
        return self.cache / "answers.db"

    @property
    def lock_file(self) -> Path:
        """Held while a shared host is started or stopped."""
        return self.state / "host.lock"


def _make_absolute(directory: Path) -> Path:
    try:
        return absolute_path(directory)
    except ValueError as error:
        raise ConfigurationError(
            f"{str(directory)!r} cannot be used: {error}",
            hint="Set FOUNDRY_HOME to the absolute path of a directory that you can write to.",
        ) from error


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, mode=PRIVATE_DIRECTORY)
    except FileExistsError:
        if not directory.is_dir():
            raise
        if os.name == "posix":  # on Windows a profile's directories are private by inheritance
            _restrict_permissions(directory)


def _restrict_permissions(directory: Path) -> None:
    """Make a directory that was there private, if it is empty or this program's.

    A home may be any directory, and have `logs` of its own. What a link leads to is the user's.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return  # a link; or not to be read, so that its first use tells
    try:
        status = os.fstat(descriptor)
        if status.st_mode & OTHERS and status.st_uid == os.geteuid() and _is_own(directory):
            os.fchmod(descriptor, PRIVATE_DIRECTORY)
    finally:
        os.close(descriptor)


def _is_own(directory: Path) -> bool:
    names = [path.name for path in directory.iterdir()]
    return not names or any(fnmatch(name, own) for name in names for own in OWN_NAMES)
