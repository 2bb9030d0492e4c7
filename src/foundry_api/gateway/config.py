"""The configuration of the gateway: a TOML file, the environment and flags."""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import msgspec

from foundry_api.gateway.upstreams.config import (
    UpstreamConfig,
    check_fallbacks,
    check_upstreams,
    read_fallbacks,
    read_upstreams,
)
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.local_path import absolute_path
from foundry_api.types.plain_text import decode_unicode
from foundry_api.types.settings import normalize_url
from foundry_api.types.values import as_path, format_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["PREFIX", "TABLES", "GatewayConfig", "gateway_variables", "load_config"]

PREFIX = "FOUNDRY_GATEWAY_"
DEFAULT_PORT = 5270
MAX_PORT = 65_535
# Settings that only a file can have.
TABLES = frozenset({"upstream", "fallbacks"})

_HOST = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%\w+)?")


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a gateway.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        hosts: Further names under which clients reach the gateway, such as gateway.example.
        origins: Origins of web pages that may call it, such as https://app.example.
        tls_cert: PEM file with the certificate and its chain.
        tls_key: PEM file with the private key.
        insecure_http: Whether to serve plain HTTP on an address that other machines reach.
        directory: Directory for keys and counters; default below FOUNDRY_HOME.
        pepper_file: File with the secret that the digests of keys depend on; default a file in
            `directory`.
        audit_log: Whether failures of authentication, changes of keys and management are recorded
            in audit.jsonl in `directory`.
        base_url: Address of the service behind the gateway; by default it is found or started.
        upstream: Services behind the gateway, each in a table `[[upstream]]`, in place of
            `base_url`.
        upstream_check_s: Seconds between two checks whether an upstream responds.
        fallbacks: Models to call in place of one that cannot answer, in a table `[fallbacks]`.
        model: Model that is loaded at the start, and for requests that name none.
        drain_s: Seconds that running calls get to finish at shutdown.
        queue_per_slot: Calls that may wait for each slot of the service.
        queue_bytes: Bytes of the requests that may wait.
        queue_timeout_s: Seconds that a call may wait for a slot.
        first_token_timeout_s: Seconds from sending a call to the service to the first token.
        gap_timeout_s: Seconds between two tokens.
        call_timeout_s: Seconds for a whole call.
        keep_alive_s: Seconds of silence after which a stream gets a comment.
        idle_timeout_s: Seconds for the head of a request, and for an idle connection.
        write_timeout_s: Seconds that a client may take to read what was sent.
        max_body_bytes: Largest body of a request.
        max_upload_bytes: Largest recording that is uploaded.
        max_file_bytes: Largest file that is uploaded for a batch, or body of a message batch.
        max_stored_bytes: Bytes of all files, with the results of batches.
        max_stored_bytes_per_key: Bytes of the files of one key; default half of all.
        max_connections: Connections in all.
        max_connections_per_address: Connections from one address.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_http: bool = False
    directory: Path | None = None
    pepper_file: Path | None = None
    audit_log: bool = True
    base_url: str | None = None
    upstream: tuple[UpstreamConfig, ...] = ()
    upstream_check_s: float = 5.0
    fallbacks: dict[str, tuple[str, ...]] = {}
    model: str | None = None
    drain_s: float = 60.0
    queue_per_slot: int = 16
    queue_bytes: int = 64 * 2**20
    queue_timeout_s: float = 600.0
    first_token_timeout_s: float = 300.0
    gap_timeout_s: float = 60.0
    call_timeout_s: float = 3600.0
    keep_alive_s: float = 15.0
    idle_timeout_s: float = 30.0
    write_timeout_s: float = 30.0
    max_body_bytes: int = 4 * 2**20
    max_upload_bytes: int = 25 * 2**20
    max_file_bytes: int = 200 * 2**20
    max_stored_bytes: int = 2 * 2**30
    max_stored_bytes_per_key: int | None = None
    max_connections: int = 10_000
    max_connections_per_address: int = 256

    def __post_init__(self) -> None:
        """Check the values, and that the TLS files are complete."""
        for name in self.__struct_fields__:
            _check(name, name, getattr(self, name))
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigurationError(
                "tls_cert and tls_key belong together, but only one is set",
                hint="Give both files, or none.",
            )
        if self.upstream and self.base_url is not None:
            raise ConfigurationError(
                "base_url and [[upstream]] are both set", hint="Add an upstream with this url."
            )
        check_upstreams(self.upstream)
        check_fallbacks(self.fallbacks)

    @property
    def uses_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.tls_cert is not None

    @property
    def stored_bytes_per_key(self) -> int:
        """Bytes that the files of one key may have."""
        limit = self.max_stored_bytes_per_key
        return self.max_stored_bytes // 2 if limit is None else limit


_FIELDS = {field.name: field for field in msgspec.structs.fields(GatewayConfig)}


def load_config(
    path: Path | None,
    flags: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    *,
    check_key_files: bool = False,
) -> GatewayConfig:
    """Load the configuration: flags override the environment, which overrides the file.

    Args:
        path: A TOML file, or None.
        flags: Values from the command line; None means not given.
        environ: The environment; default `os.environ`.
        check_key_files: Whether the key files of upstreams are read, to name the line of one that
            cannot be used. Only the gateway needs to be able to.

    Raises:
        ConfigurationError: A file cannot be read, or a value is invalid; the message says where
            the value is from.
    """
    values: dict[str, Any] = {}
    if path is not None:
        for name, value in _read_file(path, check_key_files=check_key_files).items():
            values[name] = (
                value if name in TABLES else _convert(name, f"{name} in {path}", value, strict=True)
            )
    environ = os.environ if environ is None else environ
    for name, field in _FIELDS.items():
        if name in TABLES:
            continue
        # The environment has only text. As for the other variables, empty means unset.
        if text := environ.get(PREFIX + name.upper(), "").strip():
            is_list = field.type == tuple[str, ...]
            value = [part.strip() for part in text.split(",") if part.strip()] if is_list else text
            values[name] = _convert(name, PREFIX + name.upper(), value, strict=False)
    for name, value in flags.items():
        if value is not None:
            label = f"--{name.removesuffix('_s').replace('_', '-')}"
            values[name] = _convert(name, label, value, strict=True)
    return GatewayConfig(**values)


def gateway_variables() -> tuple[str, ...]:
    """Return the names of the environment variables that `load_config` reads."""
    return tuple(PREFIX + name.upper() for name in _FIELDS if name not in TABLES)


def _convert(name: str, label: str, value: object, *, strict: bool) -> object:
    """Return a value of a setting as its type; errors name it by its label."""
    kind = _FIELDS[name].type
    try:
        converted = msgspec.convert(value, kind, strict=strict, dec_hook=_decode_path)
    except (msgspec.ValidationError, ValueError):
        raise ConfigurationError(
            f"{label} is {format_value(value)}", hint=f"Give {_describe(name)}."
        ) from None
    _check(name, label, converted)
    if isinstance(converted, Path):
        try:
            return absolute_path(converted)
        except ValueError as error:
            raise ConfigurationError(f"{label} is {format_value(value)}: {error}") from error
    return converted


def _describe(name: str) -> str:
    kind = _FIELDS[name].type
    if kind is bool:
        return "true or false"
    if kind in {int, int | None}:
        return "a whole number"
    if kind is float:
        return "a number"
    if kind == tuple[str, ...]:
        return 'a list of strings, such as ["gateway.example"]'
    return "a string"


def _decode_path(kind: type, value: object) -> object:
    text = as_path(value)
    if kind is not Path or text is None:
        raise ValueError(value)
    return Path(text)


def _check(name: str, label: str, value: object) -> None:
    """Refuse a value that no gateway can use."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        least = 0 if name in {"port", "drain_s", "queue_per_slot"} else 1
        most = MAX_PORT if name == "port" else math.inf
        if not least <= value <= most or value == math.inf:  # not a number fails too
            allowed = f"{least} to {most}" if name == "port" else f"{least} or more"
            raise ConfigurationError(f"{label} is {value!r}", hint=f"Give {allowed}.")
    elif name in _TEXT_CHECKS:
        is_valid, hint = _TEXT_CHECKS[name]
        texts, verb = ((value,), "is") if isinstance(value, str) else (value, "has")
        for text in cast("tuple[str, ...]", texts):
            if not is_valid(text):
                raise ConfigurationError(f"{label} {verb} {format_value(text)}", hint=hint)
    elif name == "base_url":
        normalize_url(value, label)


def _is_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc) and text == f"{parts.scheme}://{parts.netloc}"


_TEXT_CHECKS: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "host": (_is_host, "Give an IP address or a name, such as 127.0.0.1; the port is `port`."),
    "hosts": (_is_host, "Give names alone, such as gateway.example, without scheme and port."),
    "origins": (_is_origin, "Give a scheme and a host, such as https://app.example, and no path."),
    "model": (lambda text: bool(text.strip()), "Give an alias or an id, or leave it out."),
}


def _read_file(path: Path, *, check_key_files: bool) -> dict[str, Any]:
    try:
        text = decode_unicode(path.read_bytes())
        values = tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}",
            hint="Give the path of a TOML file that this user may read.",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    if "upstream" in values:
        values["upstream"] = read_upstreams(
            values["upstream"], text, path, check_key_files=check_key_files
        )
    if "fallbacks" in values:
        values["fallbacks"] = read_fallbacks(values["fallbacks"], path)
    for name, value in values.items():
        if name in _FIELDS:
            continue
        if isinstance(value, dict):
            raise ConfigurationError(
                f"{path} has an unknown table, [{name}]",
                hint="Most settings are in no table: write `name = value` before all lines in "
                "brackets, which are [[upstream]] and [fallbacks].",
            )
        close = difflib.get_close_matches(name.replace("-", "_").lower(), _FIELDS, 1)
        raise ConfigurationError(
            f"{path} has {format_value(name)}, which is no setting",
            hint=f"Did you mean {close[0]}?"
            if close
            else "docs/gateway.md lists the settings; keys have their own limits "
            "(`foundry-api keys create --help`).",
        )
    return values
