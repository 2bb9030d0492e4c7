"""Client settings, from arguments, environment variables and defaults, in this order."""

from __future__ import annotations

import difflib
import math
import os
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

from foundry_api.types.errors import ConfigurationError
from foundry_api.types.local_path import absolute_path, decode_system_text
from foundry_api.types.values import (
    as_float,
    as_int,
    as_path,
    as_text,
    format_value,
    is_list_like,
    strip_secrets,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from foundry_api.types.services import ServiceOptions

__all__ = ["Settings"]

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# On loopback a connection takes microseconds; a remote service that needs longer is unusable.
CONNECT_TIMEOUT_S = 5.0
# Far more than any CPU has; each takes memory.
MAX_ENGINE_THREADS = 512
MAX_ENGINE_PROCESSES = 2
# From which on the name of a variable is taken for a misspelt one.
MIN_SIMILARITY = 0.75

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_API_KEY = re.compile(r"[\x21-\x7e]+")
_URL_HINT = "Give one like http://127.0.0.1:5273."

# Services bound to a wildcard address report it as their own.
WILDCARD_HOSTS = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "+": "127.0.0.1", "::": "127.0.0.1"}  # noqa: S104 - rewritten, never bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a client. Immutable; make a changed copy with `dataclasses.replace`.

    Attributes:
        model: Model for calls that name none. `FOUNDRY_MODEL`, default phi-4-mini.
        timeout_s: Maximum seconds without a token, or `auto` to derive it from the model's
            latency. `FOUNDRY_TIMEOUT`, default 30.
        deadline_s: Maximum seconds for a complete call; None for no limit. `FOUNDRY_DEADLINE`.
        connect_timeout_s: Maximum seconds to open a connection. `FOUNDRY_CONNECT_TIMEOUT`,
            default 5.
        max_retries: Maximum number of retries of a failed call; 0 disables them.
            `FOUNDRY_RETRIES`, default 3.
        log_level: Level of the `foundry_api` logger. `FOUNDRY_LOG_LEVEL`, default INFO.
        base_url: Address of the service; None finds one. `FOUNDRY_BASE_URL`.
        base_urls: Addresses of several services, instead of `base_url`. `FOUNDRY_BASE_URLS`,
            separated by commas.
        services: Several services that differ in their models, weights or keys, instead of
            `base_urls`. A gateway makes them of its configuration.
        api_key: Sent as a bearer token to `base_url` only. `FOUNDRY_API_KEY`. Foundry Local
            ignores it; a gateway in front of it may not.
        service: `auto` finds a running service or starts an engine host; `embedded` always
            starts an engine host.
        keep_alive_s: Seconds without use after which a model that this client used is unloaded;
            None for never. `FOUNDRY_MODEL_IDLE`.
        memory_budget_mb: Maximum memory of all models of a service, in MB; None for no limit.
            Measured for an engine host of this package, else estimated from the file sizes.
            `FOUNDRY_MEMORY_BUDGET`.
        engine_processes: Processes that this client's own engine may have: with 2, a second one
            replaces the first while that reads prompts that no call waits for, which nothing else
            can stop. `FOUNDRY_ENGINE_PROCESSES`, default 1.
        engine_threads: Threads that compute one model in an engine that this package starts; None
            chooses a number from the CPUs. `FOUNDRY_ENGINE_THREADS`.
        cache: Cache for answers: `off`, `memory`, `sqlite` for a file in the home, or the path of
            an SQLite file, which is made absolute. `FOUNDRY_CACHE`, default off.
        home: Directory for the engine's data, logs and state, made absolute; None uses the
            platform's directories of the user. `FOUNDRY_HOME`.
    """

    model: str = "phi-4-mini"
    timeout_s: float | Literal["auto"] = 30.0
    deadline_s: float | None = None
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    max_retries: int = 3
    log_level: str = "INFO"
    base_url: str | None = None
    base_urls: tuple[str, ...] = ()
    services: tuple[ServiceOptions, ...] | None = None
    api_key: str | None = field(default=None, repr=False)
    service: Literal["auto", "embedded"] = "auto"
    keep_alive_s: float | None = None
    memory_budget_mb: float | None = None
    engine_processes: int = 1
    engine_threads: int | None = None
    cache: Literal["off", "memory", "sqlite"] | Path = "off"
    home: Path | None = None

    def __post_init__(self) -> None:
        """Validate each setting and convert it to its type."""
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                object.__setattr__(self, name, check(name, value))
        if self.base_url is not None and self.base_urls:
            raise ConfigurationError(
                "base_url and base_urls are both given", hint="Give one of them."
            )
        if self.services is not None and (self.base_url is not None or self.base_urls):
            raise ConfigurationError(
                "services are given, and another address too", hint="Give one of them."
            )

    @property
    def described(self) -> str:
        """The service and the model, for the `repr` of a client; without credentials."""
        place = f"base_url={self.base_url!r}" if self.base_url else f"service={self.service!r}"
        if self.base_urls:
            place = f"base_urls={list(self.base_urls)!r}"
        if self.services is not None:
            place = f"services={[service.name for service in self.services]!r}"
        return f"{place}, model={self.model!r}"

    def per_service(self) -> tuple[Settings, ...]:
        """Return one Settings for each service."""
        if self.services is not None:
            # The key is for one address only; each of these has its own.
            return tuple(
                replace(self, base_url=service.base_url, services=None, api_key=None)
                for service in self.services
            )
        if not self.base_urls:
            return (self,)
        return tuple(replace(self, base_url=url, base_urls=()) for url in self.base_urls)

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        names: Mapping[str, str] | None = None,
        **arguments: object,
    ) -> Settings:
        """Make settings from arguments, then `FOUNDRY_*` variables, then defaults.

        Args:
            environ: Environment variables; None reads those of the process.
            names: The caller's names for arguments, by setting, for error messages.
            arguments: Settings by name; None means not set.

        Returns:
            The settings.

        Raises:
            ConfigurationError: A value is invalid; the message names the variable or argument.
        """
        source = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for name, (variable, parse) in _VARIABLES.items():
            text = source.get(variable, "").strip()
            if text and arguments.get(name) is None:
                values[name] = _CHECKS[name](variable, _parse_variable(variable, text, parse))
        return cls(**_apply_overrides(values, _check_arguments(arguments, names or {})))

    @classmethod
    def resolve(
        cls,
        settings: Settings | None,
        *,
        names: Mapping[str, str] | None = None,
        **arguments: object,
    ) -> Settings:
        """Make settings from arguments, then from `settings` or, without them, the environment.

        Args:
            settings: Settings that the arguments override; None reads the environment.
            names: The caller's names for arguments, by setting, for error messages.
            arguments: Settings by name; None means not set.

        Returns:
            The settings.

        Raises:
            ConfigurationError: A value is invalid; the message names the variable or argument.
        """
        if settings is None:
            return cls.from_environment(None, names=names, **arguments)
        if not isinstance(cast("object", settings), Settings):
            raise ConfigurationError(
                f"settings is {format_value(settings)}, not Settings", hint="Give Settings(…)."
            )
        values = {setting.name: getattr(settings, setting.name) for setting in fields(cls)}
        return cls(**_apply_overrides(values, _check_arguments(arguments, names or {})))


def environment_variables() -> tuple[str, ...]:
    """Return the names of the environment variables that `Settings` reads."""
    return tuple(variable for variable, _ in _VARIABLES.values())


def check_variable(variable: str, text: str, label: str) -> object:
    """Parse and check the text of an environment variable; return the value of its setting.

    Args:
        variable: One of `environment_variables()`.
        text: The text.
        label: What errors call it.

    Raises:
        ConfigurationError: The text is invalid.
    """
    name, parse = next(
        (name, parse) for name, (own, parse) in _VARIABLES.items() if own == variable
    )
    return _CHECKS[name](label, _parse_variable(label, text, parse))


def find_misspelt_variables(
    environ: Iterable[str], known: Iterable[str], prefix: str
) -> dict[str, str]:
    """Return the variables that look like misspelt settings, each with the setting that is meant.

    Others with the prefix belong to other programs: Kubernetes sets some for each service.
    """
    # Compared without the prefix, which would make all of them similar.
    suffixes = {name.removeprefix(prefix): name for name in known}
    found: dict[str, str] = {}
    for name in sorted(environ):
        suffix = name.upper().removeprefix(prefix)
        if name.upper().startswith(prefix) and name not in suffixes.values():
            for match in difflib.get_close_matches(suffix, suffixes, 1, MIN_SIMILARITY):
                found[name] = suffixes[match]
    return found


def normalize_url(url: object, name: str = "the base URL") -> str:
    """Return a service's address as `scheme://host:port`, with the path of a proxy, if any.

    `name` is used in errors, which never show a credential.
    """
    text = as_text(url)
    if text is None:
        raise ConfigurationError(f"{name} is {format_value(url)}, not a string", hint=_URL_HINT)
    text = text.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"{name} is not a URL", hint=_URL_HINT) from error
    if "@" in parts.netloc or ("@" in text and not parts.netloc):
        raise ConfigurationError(
            f"{name} carries a credential", hint="Give it as api_key or FOUNDRY_API_KEY."
        )
    has_spaces = any(character.isspace() for character in parts.netloc + parts.path)
    is_unsafe = has_spaces or _CONTROL.search(text) or _SURROGATE.search(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or is_unsafe:
        raise ConfigurationError(
            f"{name} is {strip_secrets(text)}, not a service's address", hint=_URL_HINT
        )
    host = WILDCARD_HOSTS.get(parts.hostname, parts.hostname)
    host = f"[{host}]" if ":" in host else host
    address = f"{host}:{port}" if port else host
    # `foundry service status` prints a legacy service's address with `/openai/status`, and other
    # clients take an address with `/v1`: users paste both.
    path = re.sub(r"(?:/|/openai/status|/v1)+$", "", parts.path)
    return f"{parts.scheme}://{address}{path}"


def _check_arguments(arguments: Mapping[str, object], names: Mapping[str, str]) -> dict[str, Any]:
    """Validate the arguments that are not None."""
    return {
        name: _CHECKS[name](names.get(name, name), value) if name in _CHECKS else value
        for name, value in arguments.items()
        if value is not None
    }


def _apply_overrides(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    # base_url and base_urls exclude each other, so an override of one removes the other.
    replaced = {"base_url": "base_urls", "base_urls": "base_url"}
    removed = {replaced[name] for name in overrides if name in replaced} - overrides.keys()
    return {**{name: value for name, value in values.items() if name not in removed}, **overrides}


def _make_absolute(name: str, path: Path) -> Path:
    # Processes with another working directory use it too: the engine host, workers of a cluster.
    try:
        return absolute_path(path)
    except ValueError as error:
        raise ConfigurationError(
            f"{name} is {format_value(str(path))}: {error}",
            hint="Give the absolute path of another one.",
        ) from error


def _check_seconds(name: str, value: object) -> float:
    return _check_positive(name, value, "Give seconds above 0, such as 30.")


def _check_timeout(name: str, value: object) -> float | Literal["auto"]:
    if as_text(value) == "auto":
        return "auto"
    return _check_positive(name, value, "Give seconds above 0, such as 30, or auto.")


def _check_budget_mb(name: str, value: object) -> float:
    return _check_positive(name, value, "Give MB above 0, such as 8000.")


def _check_positive(name: str, value: object, hint: str) -> float:
    number = as_float(value)
    if number is None or not 0 < number < math.inf:
        given = format_value(value) if number is None else f"{number:g}"
        raise ConfigurationError(f"{name} is {given}", hint=hint)
    return number


def _check_model(name: str, value: object) -> str:
    text = as_text(value)
    if text is None:
        raise ConfigurationError(
            f"{name} is {format_value(value)}, not a string", hint="Name a model."
        )
    if not text.strip():
        raise ConfigurationError(f"{name} is empty", hint="Name a model, or leave it out.")
    if _CONTROL.search(text):
        raise ConfigurationError(
            f"{name} is {format_value(text)}, which holds control characters", hint="Name a model."
        )
    if _SURROGATE.search(text):
        raise ConfigurationError(
            f"{name} is {format_value(text)}, which holds a lone surrogate", hint="Name a model."
        )
    return text


def _check_retries(name: str, value: object) -> int:
    number = as_int(value)
    if number is None or number < 0:
        raise ConfigurationError(
            f"{name} is {format_value(value)}",
            hint="Give a whole number, 0 or more; 0 turns retries off.",
        )
    return number


def _check_engine_processes(name: str, value: object) -> int:
    number = as_int(value)
    if number is None or not 1 <= number <= MAX_ENGINE_PROCESSES:
        raise ConfigurationError(
            f"{name} is {format_value(value)}",
            hint="Give 1, or 2 to let a second process replace one that can't be stopped.",
        )
    return number


def _check_engine_threads(name: str, value: object) -> int:
    number = as_int(value)
    if number is None or not 1 <= number <= MAX_ENGINE_THREADS:
        raise ConfigurationError(
            f"{name} is {format_value(value)}",
            hint=f"Give a whole number from 1 to {MAX_ENGINE_THREADS}, or leave it out.",
        )
    return number


def _make_word_check(*words: str, hint: str) -> Callable[[str, object], str]:
    def check(name: str, value: object) -> str:
        text = as_text(value)
        if text not in words:
            raise ConfigurationError(f"{name} is {format_value(value)}", hint=hint)
        return text

    return check


def _check_log_level(name: str, value: object) -> str:
    level = (as_text(value) or "").upper()
    if level not in LOG_LEVELS:
        raise ConfigurationError(
            f"{name} is {format_value(value)}", hint=f"One of {', '.join(LOG_LEVELS)}."
        )
    return level


def _check_base_urls(name: str, value: object) -> tuple[str, ...]:
    if not is_list_like(value):
        # The value is not shown, because an address may contain a credential.
        raise ConfigurationError(
            f"{name} is of type {type(value).__name__}, not a list of addresses",
            hint="Give a list such as ['http://127.0.0.1:5273', 'http://127.0.0.1:5274'].",
        )
    urls = tuple(normalize_url(url, f"{name}[{index}]") for index, url in enumerate(value))
    if not urls and type(value) is not tuple:  # as the default is
        raise ConfigurationError(f"{name} is an empty list", hint="Leave it out to find a service.")
    return urls


def _check_api_key(name: str, value: object) -> str:
    text = as_text(value)
    if text is None:
        raise ConfigurationError(
            f"{name} is of type {type(value).__name__}, neither a string nor a callable"
        )
    if not _API_KEY.fullmatch(text):
        what = "is empty" if not text else "holds white space, or characters that are not ASCII"
        raise ConfigurationError(
            f"{name} {what}", hint="Give the key itself, without 'Bearer ', or leave it out."
        )
    return text


def _check_home(name: str, value: object) -> Path:
    path = as_path(value)
    if path is None:
        raise ConfigurationError(
            f"{name} is {format_value(value)}, not a path", hint="Give the path of a directory."
        )
    return _make_absolute(name, Path(path))


def _check_cache_location(name: str, value: object) -> str | Path:
    text = as_text(value)
    path = as_path(value) if text is None else None
    try:
        location = _parse_cache(text or "") if path is None else Path(path)
    except ValueError as error:
        raise ConfigurationError(
            f"{name} is {format_value(value)}", hint=f"It must be a {_DESCRIPTIONS[_parse_cache]}."
        ) from error
    return _make_absolute(name, location) if isinstance(location, Path) else location


def _parse_seconds_or_auto(text: str) -> float | str:
    return "auto" if text.lower() == "auto" else float(text)


def _parse_megabytes(text: str) -> float:
    return float(text)


def _parse_cache(text: str) -> str | Path:
    if text.lower() in {"off", "memory", "sqlite"}:
        return text.lower()
    if not any(mark in text for mark in "./\\"):
        raise ValueError(text)  # more likely a typo of a keyword than a file name
    return Path(text)


def _parse_urls(text: str) -> tuple[str, ...]:
    return tuple(url.strip() for url in text.split(",") if url.strip())


def _parse_variable(variable: str, text: str, parse: Callable[[str], object]) -> object:
    try:
        # The name of a file need not be UTF-8.
        return parse(text if parse in {Path, _parse_cache} else decode_system_text(text))
    except UnicodeError as error:
        raise ConfigurationError(
            f"{variable} is {text!r}, which is not text in UTF-8", hint="Set it to UTF-8 text."
        ) from error
    except ValueError as error:
        raise ConfigurationError(
            f"{variable} is {text!r}", hint=f"It must be a {_DESCRIPTIONS.get(parse, 'text')}."
        ) from error


# By setting: validates a value and converts it to Python's own type. The first argument is the name
# in errors.
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "model": _check_model,
    "timeout_s": _check_timeout,
    "deadline_s": _check_seconds,
    "connect_timeout_s": _check_seconds,
    "max_retries": _check_retries,
    "log_level": _check_log_level,
    "base_url": lambda name, value: normalize_url(value, name),
    "base_urls": _check_base_urls,
    "api_key": _check_api_key,
    "service": _make_word_check("auto", "embedded", hint="Give 'auto', 'embedded', or a base_url."),
    "keep_alive_s": _check_seconds,
    "memory_budget_mb": _check_budget_mb,
    "engine_processes": _check_engine_processes,
    "engine_threads": _check_engine_threads,
    "cache": _check_cache_location,
    "home": _check_home,
}
_OPTIONAL = frozenset(
    {
        "deadline_s",
        "base_url",
        "api_key",
        "keep_alive_s",
        "memory_budget_mb",
        "engine_threads",
        "home",
    }
)

# By setting: its environment variable, and the function that parses it.
_VARIABLES: dict[str, tuple[str, Callable[[str], object]]] = {
    "model": ("FOUNDRY_MODEL", str),
    "timeout_s": ("FOUNDRY_TIMEOUT", _parse_seconds_or_auto),
    "deadline_s": ("FOUNDRY_DEADLINE", float),
    "connect_timeout_s": ("FOUNDRY_CONNECT_TIMEOUT", float),
    "max_retries": ("FOUNDRY_RETRIES", int),
    "log_level": ("FOUNDRY_LOG_LEVEL", str),
    "base_url": ("FOUNDRY_BASE_URL", str),
    "base_urls": ("FOUNDRY_BASE_URLS", _parse_urls),
    "api_key": ("FOUNDRY_API_KEY", str),
    "keep_alive_s": ("FOUNDRY_MODEL_IDLE", float),
    "memory_budget_mb": ("FOUNDRY_MEMORY_BUDGET", _parse_megabytes),
    "engine_processes": ("FOUNDRY_ENGINE_PROCESSES", int),
    "engine_threads": ("FOUNDRY_ENGINE_THREADS", int),
    "cache": ("FOUNDRY_CACHE", _parse_cache),
    "home": ("FOUNDRY_HOME", Path),
}
_DESCRIPTIONS: dict[Callable[[str], object], str] = {
    float: "number of seconds",
    _parse_megabytes: "number of MB",
    _parse_seconds_or_auto: "number of seconds, or auto",
    _parse_cache: "word out of off, memory and sqlite, or the path of a file such as ./answers.db",
    int: "whole number",
}
