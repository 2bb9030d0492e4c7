"""The directories for data, logs, state and cache."""

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
# State and logs contain a port without authentication and a token: other users must not read them.
PRIVATE_DIRECTORY = 0o700
OTHERS = stat.S_IRWXG | stat.S_IRWXO
# A directory with such a file belongs to this package.
OWN_NAMES = ("host.json", "host.lock", "uses.db", "host-*.log", "foundry.*modelinfo.json")


@dataclass(frozen=True, slots=True)
class Paths:
    """The directories of this package; created on first use.

    Attributes:
        data: The engine's model cache and the registrations of local models.
        logs: One log file per start of a host, and the engine's logs.
        state: The shared host's state file and its lock, and the database of model usage.
        cache: The cache of answers.
        gateway: The gateway's keys and its other state.
        config: The user's settings of the command line.
    """

    data: Path
    logs: Path
    state: Path
    cache: Path
    gateway: Path
    config: Path

    @classmethod
    def from_home(cls, home: Path | None = None) -> Paths:
        """Return the directories below `home`, or the platform's directories of the user."""
        # Absolute, because the host runs in another working directory.
        if home is not None:
            root = _make_absolute(home)
            return cls(
                data=root / "engine",
                logs=root / "logs",
                state=root / "state",
                cache=root / "cache",
                gateway=root / "gateway",
                config=root,
            )
        import platformdirs  # noqa: PLC0415 - takes 10 ms, and is not needed with a home

        platform = platformdirs.PlatformDirs(APP_NAME, appauthor=False)
        return cls(
            data=_make_absolute(platform.user_data_path) / "engine",
            logs=_make_absolute(platform.user_log_path),
            state=_make_absolute(platform.user_state_path) / "state",
            cache=_make_absolute(platform.user_cache_path),
            gateway=_make_absolute(platform.user_data_path) / "gateway",
            config=_make_absolute(platform.user_config_path),
        )

    def create(self) -> Paths:
        """Create the data, logs and state directories, for this user only, and return self."""
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
        return self.state / "host.json"

    @property
    def usage_file(self) -> Path:
        """The database of which client uses which model."""
        return self.state / "uses.db"

    @property
    def cache_file(self) -> Path:
        return self.cache / "answers.db"

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def history_file(self) -> Path:
        """What the user typed in conversations, if the user wants that."""
        return self.state / "history"

    @property
    def chat_log_file(self) -> Path:
        """The log of prompts and conversations, if the user wants one."""
        return self.state / "chats.db"

    @property
    def lock_file(self) -> Path:
        """The lock that is held while a shared host starts or stops."""
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
        if os.name == "posix":  # on Windows, the directories of a profile are private already
            _restrict_permissions(directory)


def _restrict_permissions(directory: Path) -> None:
    """Make an existing directory private, if it is empty or contains files of this program."""
    # FOUNDRY_HOME may be any directory with, say, `logs` of another program. The target of a link
    # is left alone too.
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return  # a link; or not readable, which its first use reports
    try:
        status = os.fstat(descriptor)
        if status.st_mode & OTHERS and status.st_uid == os.geteuid():
            names = [path.name for path in directory.iterdir()]
            if not names or any(fnmatch(name, own) for name in names for own in OWN_NAMES):
                os.fchmod(descriptor, PRIVATE_DIRECTORY)
    finally:
        os.close(descriptor)
