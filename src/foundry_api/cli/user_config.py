"""The user's settings of the command line: a TOML file, below flags and environment variables."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from foundry_api.storage.paths import PRIVATE_DIRECTORY, Paths
from foundry_api.storage.private_file import read_file, replace_file, resolve_link
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.plain_text import decode_unicode
from foundry_api.types.settings import check_variable
from foundry_api.types.values import is_list

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KEYS", "Key", "UserConfig", "get_config_path", "load_user_config", "merge_environment"]

MAX_BYTES = 2**20
EDIT = "Correct it with `foundry-api config edit`."
SWITCHES = {"on": True, "off": False, "true": True, "false": False}
_ADDRESSES = frozenset({"base_url", "base_urls"})


class Key(NamedTuple):
    """A setting in the file.

    Attributes:
        name: Its name in the file.
        variable: The environment variable that overrides it; empty for a switch.
        flag: The flag that overrides both; empty if there is none.
        default: The default, as text.
        meaning: What it sets.
    """

    name: str
    variable: str
    flag: str
    default: str
    meaning: str


def _make_key(variable: str, flag: str, default: str, meaning: str) -> Key:
    return Key(variable.removeprefix("FOUNDRY_").lower(), variable, flag, default, meaning)


# Not FOUNDRY_API_KEY: credentials belong into the environment of a program. Not FOUNDRY_HOME: the
# file may be in there.
KEYS = {
    key.name: key
    for key in (
        _make_key("FOUNDRY_MODEL", "--model", "phi-4-mini", "default model"),
        _make_key("FOUNDRY_BASE_URL", "--base-url", "", "address of the service; else it is found"),
        _make_key("FOUNDRY_BASE_URLS", "--base-urls", "", "addresses of several services"),
        _make_key("FOUNDRY_TIMEOUT", "--timeout", "30", "seconds to wait for the next token"),
        _make_key("FOUNDRY_DEADLINE", "--deadline", "none", "seconds for a whole call"),
        _make_key("FOUNDRY_CONNECT_TIMEOUT", "", "5", "seconds to connect"),
        _make_key("FOUNDRY_RETRIES", "", "3", "attempts after a failed one"),
        _make_key("FOUNDRY_CACHE", "", "off", "cache of answers: memory, sqlite, or a file"),
        _make_key("FOUNDRY_LOG_LEVEL", "-v", "off", "log to standard error at this level"),
        _make_key("FOUNDRY_MODEL_IDLE", "", "never", "seconds until an unused model is unloaded"),
        _make_key("FOUNDRY_MEMORY_BUDGET", "", "unlimited", "MB of memory for models"),
        _make_key("FOUNDRY_ENGINE_PROCESSES", "", "1", "2 allows a process that replaces another"),
        _make_key("FOUNDRY_ENGINE_THREADS", "", "automatic", "threads that compute one model"),
        Key("history", "", "", "off", "keep the messages that you type in conversations"),
        Key("logs", "", "", "off", "log prompts and answers of chat"),
    )
}


@dataclass(frozen=True, slots=True)
class UserConfig:
    """The settings of a file.

    Attributes:
        path: The file, which need not exist.
        values: What is set in it: text for environment variables, booleans for switches.
        source: The text of the file.
    """

    path: Path
    values: Mapping[str, str | bool] = field(default_factory=dict[str, str | bool])
    source: str = ""

    def get_variables(self) -> dict[str, str]:
        """Return the settings as environment variables."""
        return {
            KEYS[name].variable: value
            for name, value in self.values.items()
            if isinstance(value, str)
        }

    def is_on(self, name: str) -> bool:
        """Whether a switch is on."""
        return self.values.get(name) is True

    def set(self, name: str, text: str) -> UserConfig:
        """Set a value and write the file. Raises ConfigurationError."""
        key = get_key(name)
        if key.variable:
            literal = _format_toml(check_variable(key.variable, text, name))
        elif text.lower() in SWITCHES:
            literal = _format_toml(SWITCHES[text.lower()])
        else:
            raise ConfigurationError(f"{name} is {text!r}", hint="Give on or off.")
        return self._replace_line(name, f"{name} = {literal}")

    def unset(self, name: str) -> UserConfig:
        """Remove a value and write the file. Raises ConfigurationError."""
        get_key(name)
        return self if name not in self.values else self._replace_line(name, None)

    def _replace_line(self, name: str, line: str | None) -> UserConfig:
        # The other lines stay as the user wrote them, with comments.
        pattern = re.compile(rf"""[ \t]*["']?{name}["']?[ \t]*=""")
        lines = self.source.splitlines()
        positions = [number for number, old in enumerate(lines) if pattern.match(old)]
        new = [] if line is None else [line]
        if positions:
            lines[positions[0] : positions[0] + 1] = new
        else:
            lines += new
        text = "".join(f"{part}\n" for part in lines)
        changed = None
        with contextlib.suppress(ConfigurationError):  # the value had several lines
            changed = _parse(self.path, text)
        others = {key: value for key, value in self.values.items() if key != name}
        if (
            changed is None
            or (line is None) == (name in changed.values)
            or others != {key: value for key, value in changed.values.items() if key != name}
        ):
            raise ConfigurationError(
                f"{self.path} is written in a way that {name} cannot be changed in",
                hint="Change it with `foundry-api config edit`.",
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
            replace_file(resolve_link(self.path), text.encode())
        except OSError as error:
            raise ConfigurationError(
                f"{self.path} cannot be written: {error.strerror}",
                hint="Set FOUNDRY_HOME to a directory that you can write to.",
            ) from error
        return changed


def get_key(name: str) -> Key:
    """Return the setting of a name; raise ConfigurationError with a suggestion if there is none."""
    if name in KEYS:
        return KEYS[name]
    import difflib  # noqa: PLC0415 - for an error only

    close = difflib.get_close_matches(name.replace("-", "_").lower(), KEYS, 1)
    if name.lower() in {"api_key", "foundry_api_key"}:
        hint = "A key does not belong into the file: set FOUNDRY_API_KEY."
    elif close:
        hint = f"Did you mean {close[0]}?"
    else:
        hint = "`foundry-api config list` shows all settings."
    raise ConfigurationError(f"there is no setting {name}", hint=hint)


def get_config_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return the path of the file: in FOUNDRY_HOME, else in the user's configuration directory."""
    home = (os.environ if environ is None else environ).get("FOUNDRY_HOME", "").strip()
    directory = check_variable("FOUNDRY_HOME", home, "FOUNDRY_HOME") if home else None
    return Paths.from_home(directory if isinstance(directory, Path) else None).config_file


def load_user_config(environ: Mapping[str, str] | None = None) -> UserConfig:
    """Read the file. Raises ConfigurationError, which names the file and the setting."""
    path = get_config_path(environ)
    try:
        raw = read_file(path, MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return UserConfig(path)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}", hint="Correct or remove it."
        ) from error
    if len(raw) > MAX_BYTES:
        raise ConfigurationError(f"{path} is too long for settings", hint="Correct or remove it.")
    try:
        text = decode_unicode(raw)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not text in UTF-8", hint=EDIT) from error
    return _parse(path, text)


def merge_environment(config: UserConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the settings of the file that it does not override."""
    given = {name: text for name, text in environ.items() if text.strip()}
    values = config.get_variables()
    # The two exclude each other, so that one in the environment overrides both.
    addresses = {KEYS[name].variable for name in _ADDRESSES}
    if addresses & given.keys():
        values = {name: text for name, text in values.items() if name not in addresses}
    return {**values, **given}


def _parse(path: Path, text: str) -> UserConfig:
    import tomllib  # noqa: PLC0415 - most users have no file

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"{path} is not valid TOML: {error}",
            hint=EDIT,
        ) from error
    values: dict[str, str | bool] = {}
    try:
        for name, value in document.items():
            values[name] = _check(get_key(name), value)
            _check_addresses(values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}", hint=f"{error.hint} {EDIT}") from None
    return UserConfig(path, values, text)


def _check(key: Key, value: Any) -> str | bool:
    if not key.variable:
        if not isinstance(value, bool):
            raise ConfigurationError(f"{key.name} is {value!r}", hint="Give true or false.")
        return value
    items = value if key.name == "base_urls" and is_list(value) else [value]
    if any(type(item) not in {str, int, float} for item in items):
        raise ConfigurationError(f"{key.name} is {value!r}, neither text nor a number")
    text = ",".join(map(str, items))
    check_variable(key.variable, text, key.name)
    return text


def _check_addresses(names: Mapping[str, object]) -> None:
    if names.keys() >= _ADDRESSES:
        raise ConfigurationError("base_url and base_urls are both set", hint="Remove one.")


def _format_toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_format_toml, value))}]"  # pyright: ignore[reportUnknownArgumentType]
    return json.dumps(str(value), ensure_ascii=False)  # escapes as TOML does
