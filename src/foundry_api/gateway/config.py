"""The configuration of the gateway: a TOML file, the environment and flags."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.types.errors import ConfigurationError
from foundry_api.types.values import format_value

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PREFIX", "GatewayConfig", "load_config"]

PREFIX = "FOUNDRY_GATEWAY_"
DEFAULT_PORT = 5270


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
        max_file_bytes: Largest file that is uploaded for a batch.
        max_stored_bytes: Bytes of all files, with the results of batches.
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
    max_connections: int = 10_000
    max_connections_per_address: int = 256

    def __post_init__(self) -> None:
        """Check the numbers, and that the TLS files are complete."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            least = 0 if name in {"port", "drain_s", "queue_per_slot"} else 1
            if value < least:
                raise ConfigurationError(
                    f"{name} is {format_value(value)}", hint=f"Give {least} or more."
                )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigurationError(
                "tls_cert and tls_key belong together, but only one is set",
                hint="Give both files, or none.",
            )

    @property
    def uses_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.tls_cert is not None


def load_config(
    path: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> GatewayConfig:
    """Load the configuration: flags override the environment, which overrides the file.

    Args:
        path: A TOML file, or None.
        flags: Values from the command line; None means not given.
        environ: The environment; default `os.environ`.

    Raises:
        ConfigurationError: The file cannot be read, or a value is invalid.
    """
    values: dict[str, Any] = {} if path is None else _read_file(path)
    environ = os.environ if environ is None else environ
    for field in msgspec.structs.fields(GatewayConfig):
        text = environ.get(PREFIX + field.name.upper())
        if text:
            is_list = field.name in {"hosts", "origins"}
            values[field.name] = text.split(",") if is_list else text
    values |= {name: value for name, value in flags.items() if value is not None}
    try:
        # Not strict: the environment has only text.
        return msgspec.convert(values, GatewayConfig, strict=False, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"the gateway's configuration is invalid: {error}",
            hint="`foundry-api serve --help` lists the settings.",
        ) from None


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise NotImplementedError


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
