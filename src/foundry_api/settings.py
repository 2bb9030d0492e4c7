"""Settings: what the environment says, what the arguments say, and the defaults beneath."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from foundry_api.errors import ConfigurationError
from foundry_api.local_path import absolute_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Settings"]

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
CONNECT_TIMEOUT_S = 5.0
"""On loopback a connection takes microseconds; a remote service that needs longer is as good as
dead."""

WILDCARD_HOSTS = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "::": "127.0.0.1"}  # noqa: S104 - rewritten, never bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a client behaves. Immutable; make a changed copy with `dataclasses.replace`.

    Attributes:
        model: Model used when a call names none. `FOUNDRY_MODEL`, default phi-4-mini.
        timeout_s: Seconds without a token before a call gives up, or `auto`. `FOUNDRY_TIMEOUT`,
            default 30.
        deadline_s: Seconds for a whole call; None for no bound. `FOUNDRY_DEADLINE`.
        connect_timeout_s: Seconds that making a connection may take. `FOUNDRY_CONNECT_TIMEOUT`,
            default 5.
        retries: Further attempts after a failed one. `FOUNDRY_RETRIES`, default 3; 0 turns
            them off.
        log_level: Level of the `foundry_api` logger. `FOUNDRY_LOG_LEVEL`, default INFO.
        base_url: Address of a service; None searches for one. `FOUNDRY_BASE_URL`.
        base_urls: Addresses of several services instead. `FOUNDRY_BASE_URLS`, with commas between.
        api_key: Sent as a bearer token to `base_url` and to nothing else. `FOUNDRY_API_KEY`.
            Foundry Local checks none; a gateway in front of it may.
        service: `auto` finds a running service or starts an engine host; `embedded` always
            starts one of its own.
        model_idle_s: Seconds after which a model that this client used is taken out of memory when
            nobody used it; None for never. `FOUNDRY_MODEL_IDLE`.
        memory_budget_mb: Bound of the memory that the models take in a service, in MB, measured
            where the service is an engine host of this package, else by the sizes of their files;
            None for none. `FOUNDRY_MEMORY_BUDGET`.
        cache: Where answers are kept: `off`, in `memory`, in a `sqlite` file in the home, or in one
            at this path, which is made absolute. `FOUNDRY_CACHE`, default off.
        home: Directory for the engine's data, logs and state, made absolute; None takes the
            user's own directories of the platform. `FOUNDRY_HOME`.
    """

    model: str = "phi-4-mini"
    timeout_s: float | Literal["auto"] = 30.0
    deadline_s: float | None = None
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    retries: int = 3
    log_level: str = "INFO"
    base_url: str | None = None
    base_urls: tuple[str, ...] = ()
    api_key: str | None = field(default=None, repr=False)
    service: Literal["auto", "embedded"] = "auto"
    model_idle_s: float | None = None
    memory_budget_mb: float | None = None
    cache: Literal["off", "memory", "sqlite"] | Path = "off"
    home: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work, with the name of the setting."""
        if self.base_url is not None:
            object.__setattr__(self, "base_url", normalised_url(self.base_url))
        if not self.model.strip():
            raise ConfigurationError("FOUNDRY_MODEL is empty", hint="Name a model, or unset it.")
        object.__setattr__(self, "base_urls", tuple(map(normalised_url, self.base_urls)))
        if self.home is not None:
            object.__setattr__(self, "home", _absolute("FOUNDRY_HOME", self.home))
        if isinstance(self.cache, Path):
            object.__setattr__(self, "cache", _absolute("FOUNDRY_CACHE", self.cache))
        if self.base_url is not None and self.base_urls:
            raise ConfigurationError(
                "base_url and base_urls are both given", hint="Give one of them."
            )
        if self.timeout_s != "auto":
            _check_seconds("FOUNDRY_TIMEOUT", self.timeout_s)
        _check_seconds("FOUNDRY_DEADLINE", self.deadline_s)
        _check_seconds("FOUNDRY_CONNECT_TIMEOUT", self.connect_timeout_s)
        _check_seconds("FOUNDRY_MODEL_IDLE", self.model_idle_s)
        _check_positive(
            "FOUNDRY_MEMORY_BUDGET", self.memory_budget_mb, "Give MB above 0, such as 8000."
        )
        if self.retries < 0:
            raise ConfigurationError(
                f"FOUNDRY_RETRIES is {self.retries}", hint="Give 0 or more; 0 turns retries off."
            )
        if self.log_level not in LOG_LEVELS:
            raise ConfigurationError(
                f"FOUNDRY_LOG_LEVEL is {self.log_level!r}", hint=f"One of {', '.join(LOG_LEVELS)}."
            )
        if self.service not in {"auto", "embedded"}:
            raise ConfigurationError(
                f"service is {self.service!r}", hint="Give 'auto', 'embedded', or a base_url."
            )

    def each(self) -> tuple[Settings, ...]:
        """Settings with one service each."""
        if not self.base_urls:
            return (self,)
        return tuple(replace(self, base_url=url, base_urls=()) for url in self.base_urls)

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, **arguments: object
    ) -> Settings:
        """Settings from arguments, then `FOUNDRY_*` variables, then defaults.

        Args:
            environ: The environment; None reads the process's own.
            arguments: Settings by their names; None counts as not given.

        Raises:
            ConfigurationError: A value cannot be used; the message names the variable.
        """
        source = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for name, (variable, parse) in _VARIABLES.items():
            if text := source.get(variable, "").strip():
                values[name] = _parsed(variable, text, parse)
        return cls(**_over(values, arguments))

    @classmethod
    def resolve(cls, settings: Settings | None, **arguments: object) -> Settings:
        """Settings from arguments over given settings, or else over the environment."""
        if settings is None:
            return cls.from_environment(None, **arguments)
        values = {each.name: getattr(settings, each.name) for each in fields(cls)}
        return cls(**_over(values, arguments))


def _over(values: dict[str, Any], arguments: dict[str, object]) -> dict[str, Any]:
    """Values with arguments over them. One address takes the place of several, and the reverse."""
    given = {name: value for name, value in arguments.items() if value is not None}
    replaced = {"base_url": "base_urls", "base_urls": "base_url"}
    hidden = {replaced[name] for name in given if name in replaced} - given.keys()
    return {**{name: value for name, value in values.items() if name not in hidden}, **given}


def _absolute(variable: str, path: Path) -> Path:
    """Other processes use it too: the engine's host, workers of a cluster."""
    try:
        return absolute_path(path)
    except ValueError as error:
        raise ConfigurationError(
            f"{variable} is {str(path)!r}: {error}", hint="Give an absolute path."
        ) from error


def _check_seconds(variable: str, value: object) -> None:
    _check_positive(variable, value, "Give seconds above 0, such as 30.")


def _check_positive(variable: str, value: object, hint: str) -> None:
    if value is None or (isinstance(value, int | float) and 0 < value < float("inf")):
        return
    raise ConfigurationError(f"{variable} is {value}", hint=hint)


def _seconds_or_auto(text: str) -> float | str:
    return "auto" if text.lower() == "auto" else float(text)


def _megabytes(text: str) -> float:
    return float(text)


def _cache(text: str) -> str | Path:
    if text.lower() in {"off", "memory", "sqlite"}:
        return text.lower()
    if not any(mark in text for mark in "./\\"):
        raise ValueError(text)  # mistyped, rather than a file of that name
    return Path(text)


def _urls(text: str) -> tuple[str, ...]:
    return tuple(url.strip() for url in text.split(",") if url.strip())


def _parsed(variable: str, text: str, parse: Callable[[str], object]) -> object:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{variable} is {text!r}", hint=f"It must be a {_KINDS.get(parse, 'text')}."
        ) from error


_VARIABLES: dict[str, tuple[str, Callable[[str], object]]] = {
    "model": ("FOUNDRY_MODEL", str),
    "timeout_s": ("FOUNDRY_TIMEOUT", _seconds_or_auto),
    "deadline_s": ("FOUNDRY_DEADLINE", float),
    "connect_timeout_s": ("FOUNDRY_CONNECT_TIMEOUT", float),
    "retries": ("FOUNDRY_RETRIES", int),
    "log_level": ("FOUNDRY_LOG_LEVEL", str.upper),
    "base_url": ("FOUNDRY_BASE_URL", str),
    "base_urls": ("FOUNDRY_BASE_URLS", _urls),
    "api_key": ("FOUNDRY_API_KEY", str),
    "model_idle_s": ("FOUNDRY_MODEL_IDLE", float),
    "memory_budget_mb": ("FOUNDRY_MEMORY_BUDGET", _megabytes),
    "cache": ("FOUNDRY_CACHE", _cache),
    "home": ("FOUNDRY_HOME", Path),
}
_KINDS: dict[Callable[[str], object], str] = {
    float: "number of seconds",
    _megabytes: "number of MB",
    _seconds_or_auto: "number of seconds, or auto",
    _cache: "word out of off, memory and sqlite, or the path of a file such as ./answers.db",
    int: "whole number",
}


def variables() -> tuple[str, ...]:
    """The environment variables that are read."""
    return tuple(variable for variable, _ in _VARIABLES.values())


_URL_HINT = "Give one like http://127.0.0.1:5273."
_OWN_PATHS = re.compile(r"(?:/|/openai/status|/v1)+$")


def normalised_url(url: str) -> str:
    """A service's address as `scheme://host:port`, with the path of a proxy in front of it, if any.

    Services bound to a wildcard report it as their address, and a legacy service's address is
    printed with `/openai/status` behind it; users paste both, and `/v1` from other clients.

    Raises:
        ConfigurationError: It is no http address, or it carries a credential.
    """
    url = url.strip()
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise ConfigurationError("the base URL is no URL", hint=_URL_HINT) from error
    if parts.username or parts.password:
        raise ConfigurationError(
            "the base URL carries a credential", hint="Give it as api_key or FOUNDRY_API_KEY."
        )
    spaced = any(character.isspace() for character in parts.netloc + parts.path)
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or spaced:
        raise ConfigurationError(f"{url!r} is not a service's address", hint=_URL_HINT)
    host = WILDCARD_HOSTS.get(parts.hostname, parts.hostname)
    host = f"[{host}]" if ":" in host else host
    address = f"{host}:{port}" if port else host
    return f"{parts.scheme}://{address}{_OWN_PATHS.sub('', parts.path)}"
