"""The tables `[[upstream]]` and `[fallbacks]` of the gateway's TOML file."""

from __future__ import annotations

import difflib
import math
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from foundry_api.batch.cluster.node_filter import is_label_condition
from foundry_api.gateway.upstreams.key_file import KeyFile
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.services import ServiceOptions
from foundry_api.types.settings import normalize_url
from foundry_api.types.values import format_value, is_dict, is_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "UpstreamConfig",
    "check_fallbacks",
    "check_upstreams",
    "make_services",
    "read_fallbacks",
    "read_upstreams",
]

HINT = "docs/gateway-upstreams.md describes the settings of an upstream."
RAY_HINT = 'Install it: pip install "foundry-api[ray]"'
RAY_CLIENT_HINT = 'Install it: pip install "ray[client]"'
FALLBACKS_HINT = 'Give one model or more, each once: big = ["small"].'
MAX_UPSTREAMS = 256  # each has a series of metrics, and is asked for its models all the time
MAX_WEIGHT = 1000.0
MAX_SLOTS = 10_000
MAX_NODES = 1000
MAX_PORT = 65_535
# Of the fields that only the kind ray has.
CLUSTER_DEFAULTS: dict[str, object] = {
    "address": "auto",
    "labels": {},
    "resources": {},
    "max_nodes": 100,
    "engine_port": 0,
}

# A label of metrics, and a word of the log.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ADDRESS = re.compile(r"auto|(?:ray://)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*([\"']?)upstream\1[ \t]*\]\]", re.MULTILINE)
_TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)
_UNKNOWN = re.compile(r"unknown field `([^`]+)`")
_PLACE = re.compile(r" - at `\$\.?([^`]*)`")
_FIELD = re.compile(r"[^`]*`(\w+)`|(\w+)")


class UpstreamConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A service behind the gateway.

    Attributes:
        name: Its name in metrics, in the log and in `/api/status`.
        kind: `foundry` for Foundry Local of any generation and for another gateway of this package;
            `openai` for other servers of OpenAI's API, such as llama.cpp, vLLM, Ollama or LM
            Studio; `ray` for an engine on each node of a Ray cluster.
        url: Its address, with or without `/v1`; by default the service of this machine, which is
            found or started. One upstream may leave it out.
        models: Models that it is called for, by alias or id; default: all that it lists.
        aliases: Further names of its models: `{ fast = "phi-4-mini" }`. Several upstreams may have
            the same name for models of their own.
        weight: Its share of the calls beside the other upstreams.
        slots: Calls that it gets at the same time; default: as many as are answered fastest.
        key_file: File with the key that it requires.
        address: Of `ray`: the cluster, as `HOST:PORT`, `ray://HOST:PORT`, or `auto` for the one
            that this machine belongs to.
        labels: Of `ray`: which nodes get an engine, by their labels:
            `{ zone = "a", disk = "in(ssd,nvme)", spot = "!true" }`.
        resources: Of `ray`: what each engine reserves on its node: `{ GPU = 1 }`.
        max_nodes: Of `ray`: the largest number of engines.
        engine_port: Of `ray`: the port of each engine on its node; 0 for any free one.
    """

    name: str
    kind: Literal["foundry", "openai", "ray"] = "foundry"
    url: str | None = None
    models: tuple[str, ...] = ()
    aliases: dict[str, str] = {}
    weight: float = 1.0
    slots: int | None = None
    key_file: Path | None = None
    address: str = "auto"
    labels: dict[str, str] = {}
    resources: dict[str, float] = {}
    max_nodes: int = 100
    engine_port: int = 0

    def __post_init__(self) -> None:
        """Check the values that the types allow."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name is {format_value(self.name)}; it takes up to 64 letters, digits, '.', '_' "
                "and '-'"
            )
        if self.url is None and self.kind == "openai":
            raise ValueError("url is missing")
        self._check_cluster()
        if self.url is not None:
            try:
                normalize_url(self.url, "url")
            except ConfigurationError as error:
                raise ValueError(error.message) from None
        if not 0 < self.weight <= MAX_WEIGHT:
            raise ValueError(f"weight is {self.weight:g}, not above 0 and at most {MAX_WEIGHT:g}")
        if self.slots is not None and not 1 <= self.slots <= MAX_SLOTS:
            raise ValueError(f"slots is {self.slots}, not from 1 to {MAX_SLOTS}")
        names = {"models": self.models, "aliases": (*self.aliases, *self.aliases.values())}
        for field, values in names.items():
            if not all(value.strip() for value in values):
                raise ValueError(f"{field} has an empty name")

    def _check_cluster(self) -> None:
        if self.kind == "ray":
            if self.url is not None or self.key_file is not None:
                name = "key_file" if self.url is None else "url"
                raise ValueError(f"{name} is not for kind ray, which has an address")
        else:
            for name, default in CLUSTER_DEFAULTS.items():
                if getattr(self, name) != default:
                    raise ValueError(f"{name} is for kind ray only")
        if not _ADDRESS.fullmatch(self.address):
            raise ValueError(
                f"address is {format_value(self.address)}, not auto, HOST:PORT or ray://HOST:PORT"
            )
        for label, condition in self.labels.items():
            if not label or not is_label_condition(condition):
                raise ValueError(
                    f"labels has {format_value(condition)} for {format_value(label)}; it takes a "
                    "value, !value, in(a,b) or !in(a,b)"
                )
        for resource, amount in self.resources.items():
            if not resource or not 0 < amount < math.inf:
                raise ValueError(f"resources has {amount:g} of {format_value(resource)}")
        if not 1 <= self.max_nodes <= MAX_NODES:
            raise ValueError(f"max_nodes is {self.max_nodes}, not from 1 to {MAX_NODES}")
        if not 0 <= self.engine_port <= MAX_PORT:
            raise ValueError(f"engine_port is {self.engine_port}, not from 0 to {MAX_PORT}")


def read_upstreams(
    tables: object, text: str, path: Path, *, check_key_files: bool = False
) -> tuple[UpstreamConfig, ...]:
    """Convert the `[[upstream]]` tables of a file; `text` is its content.

    Raises:
        ConfigurationError: One is invalid; the message names it and its line.
    """
    if not is_list(tables) or not all(is_dict(table) for table in tables):
        raise ConfigurationError(
            f"{path}: upstream is not a list of tables", hint="Write [[upstream]] above each."
        )
    lines = _Lines(text, len(tables))
    upstreams: list[UpstreamConfig] = []
    for index, table in enumerate(tables):
        name = table.get("name")
        which = f"upstream {name!r}" if isinstance(name, str) else f"upstream {index + 1}"
        try:
            upstream = msgspec.convert(table, UpstreamConfig, dec_hook=_decode_path)
            check_upstreams([*upstreams, upstream])
            if check_key_files and upstream.key_file is not None:
                KeyFile(upstream.key_file)
            if check_key_files and upstream.kind == "ray":
                check_ray(upstream.address)
        except (msgspec.ValidationError, ConfigurationError) as error:
            problem = error.message if isinstance(error, ConfigurationError) else str(error)
            hint = error.hint if isinstance(error, ConfigurationError) else ""
            place = _PLACE.search(problem)
            problem = _PLACE.sub("", problem)
            field = _FIELD.match(place[1] if place and place[1] else problem)
            line = lines.find(index, (field[1] or field[2]) if field else "")
            where = path if line is None else f"{path}, line {line}"
            if place and place[1]:
                problem = f"{place[1]}: {problem}"
            raise ConfigurationError(
                f"{where}: {which}: {problem}", hint=hint or _make_hint(problem)
            ) from None
        upstreams.append(upstream)
    return tuple(upstreams)


def check_ray(address: str) -> None:
    """Refuse a cluster if Ray is not installed.

    Raises:
        ConfigurationError: Ray is missing, or what it needs for such an address.
    """
    if find_spec("ray") is None:
        raise ConfigurationError("kind is ray, but Ray is not installed", hint=RAY_HINT)
    if address.startswith("ray://") and find_spec("grpc") is None:
        raise ConfigurationError(
            "address begins with ray://, but grpcio is not installed", hint=RAY_CLIENT_HINT
        )


def _make_hint(problem: str) -> str:
    unknown = _UNKNOWN.search(problem)
    if unknown is None:
        return HINT
    close = difflib.get_close_matches(unknown[1], UpstreamConfig.__struct_fields__, 1)
    if close:
        return f"Did you mean {close[0]}? {HINT}"
    return f"{HINT} Those of the gateway itself come before the first [[upstream]]."


def check_upstreams(upstreams: Sequence[UpstreamConfig]) -> None:
    """Refuse upstreams that exclude each other.

    Raises:
        ConfigurationError: Two have the same name or address.
    """
    if len(upstreams) > MAX_UPSTREAMS:
        raise ConfigurationError(f"more than {MAX_UPSTREAMS} upstreams are given", hint=HINT)
    names = [upstream.name.lower() for upstream in upstreams]
    urls = [upstream.url and normalize_url(upstream.url) for upstream in upstreams]
    if (name := _find_duplicate(names)) is not None:
        raise ConfigurationError(f"name is {name!r}, as that of another upstream", hint=HINT)
    if (url := _find_duplicate(urls)) is not None:
        raise ConfigurationError(f"url is {url}, as that of another upstream", hint=HINT)
    if sum(one.url is None and one.kind != "ray" for one in upstreams) > 1:
        raise ConfigurationError("url is missing, as in another upstream", hint=HINT)


def read_fallbacks(table: object, path: Path) -> dict[str, tuple[str, ...]]:
    """Convert the table `[fallbacks]` of a file.

    Raises:
        ConfigurationError: It is invalid.
    """
    try:
        fallbacks = msgspec.convert(table, dict[str, tuple[str, ...]])
        check_fallbacks(fallbacks)
    except (msgspec.ValidationError, ConfigurationError) as error:
        raise ConfigurationError(
            f"{path}: [fallbacks] is invalid: {getattr(error, 'message', error)}",
            hint=FALLBACKS_HINT,
        ) from None
    return fallbacks


def check_fallbacks(fallbacks: Mapping[str, Sequence[str]]) -> None:
    """Refuse chains that name a model twice.

    Raises:
        ConfigurationError: One does, or it is empty.
    """
    for name, chain in fallbacks.items():
        names = [text.strip().lower() for text in (name, *chain)]
        if len(names) == 1 or not all(names) or len(set(names)) < len(names):
            raise ConfigurationError(
                f"the fallbacks of {format_value(name)} are {format_value(list(chain))}",
                hint=FALLBACKS_HINT,
            )


def make_services(upstreams: Iterable[UpstreamConfig]) -> tuple[ServiceOptions, ...]:
    """Return the upstreams as services of a client. Those of clusters are added as they join.

    Raises:
        ConfigurationError: A key file cannot be used.
    """
    return tuple(
        ServiceOptions(
            name=upstream.name,
            base_url=None if upstream.url is None else normalize_url(upstream.url),
            protocol="openai" if upstream.kind == "openai" else "foundry",
            models=upstream.models,
            aliases=upstream.aliases,
            weight=upstream.weight,
            concurrency=upstream.slots,
            get_api_key=None if upstream.key_file is None else KeyFile(upstream.key_file),
        )
        for upstream in upstreams
        if upstream.kind != "ray"
    )


class _Lines:
    """Finds the lines of settings, which the parser of TOML does not tell."""

    def __init__(self, text: str, tables: int) -> None:
        self._text = text
        self._starts = [match.start() for match in _HEADER.finditer(text)]
        if len(self._starts) != tables:  # an inline array, or a text that looks like a header
            self._starts = []

    def find(self, index: int, field: str) -> int | None:
        """Return the line of a member of a table, else of its header; None if it is unknown."""
        if not self._starts:
            return None
        start = self._starts[index]
        header_end = self._text.find("\n", start)
        if field and header_end >= 0:
            next_table = _TABLE.search(self._text, header_end)
            end = next_table.start() if next_table else len(self._text)
            pattern = rf"^[ \t]*[\"']?{re.escape(field)}[\"']?[ \t]*[.=]"
            if member := re.compile(pattern, re.MULTILINE).search(self._text, header_end, end):
                start = member.start()
        return self._text.count("\n", 0, start) + 1


def _find_duplicate(values: Iterable[str | None]) -> str | None:
    seen: set[str] = set()
    for value in values:
        if value is not None and value in seen:
            return value
        if value is not None:
            seen.add(value)
    return None


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError
