"""Runs the user's own `foundry` command to find services and to manage the models of 0.10.

The command has two dialects: 0.10 has `foundry server`, versions 0.3 to 0.9 have `foundry service`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import msgspec

from foundry_api.storage.process import NO_WINDOW
from foundry_api.types.errors import (
    ConfigurationError,
    DownloadFailed,
    ModelError,
    ModelLoadFailed,
    ProtocolError,
)
from foundry_api.types.models import Model
from foundry_api.types.settings import normalize_url
from foundry_api.wire.dialects.base import LOAD_TIMEOUT_S
from foundry_api.wire.dialects.legacy import parse_percent
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sequence

__all__ = [
    "MAX_OUTPUT_BYTES",
    "SERVER_STATUS",
    "SERVICE_STATUS",
    "CommandResult",
    "FoundryModels",
    "Subprocess",
    "discover_urls",
    "find_member",
    "is_own_address",
    "iter_json_objects",
    "parse_urls",
    "run_command",
    "run_program",
]

# The longest output is the whole catalog as JSON, below 1 MB.
MAX_OUTPUT_BYTES = 16 * 2**20

# The status command takes a second on real machines, and is known to hang.
TIMEOUT_S = 3.0

# How long to wait for the other dialect after one has reported a service.
OTHER_DIALECT_TIMEOUT_S = 0.5

# How long to wait for the status command before a model is loaded. Discovery can do without its
# output, this cannot.
STATUS_TIMEOUT_S = 10.0

# The list command requests the remote catalog and waits for its time-outs.
LIST_TIMEOUT_S = 60.0
POLL_S = 0.5

# The status command of 0.10, and that of 0.3 to 0.9.
SERVER_STATUS = ("server", "status", "-o", "json")
SERVICE_STATUS = ("service", "status")
_LIST_ALL = ("--variants", "--limit", "500")

# How many braces to try as the start of a JSON object: log lines have some, a long listing has very
# many.
MAX_CANDIDATES = 1000
MAX_DEPTH = 4

_URL = re.compile(r"https?://[^\s/\"'<>;,|]+:\d+")
_COLOUR = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")

# A row of a table, with the rows below it that only continue its URLs.
_WEB_URLS = re.compile(
    r"^.*\bWeb ?URLs?\b.*(?:\n(?=[^\n:]*https?://).*)*", re.MULTILINE | re.IGNORECASE
)

# Ids that are safe on a command line: not an option, and no character that is special in a batch
# file, which `foundry` may be on Windows.
_PLAIN_ID = re.compile(r"[A-Za-z0-9][\w.:+/-]*")


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The result of a command.

    Attributes:
        text: Its output; empty if it hung.
        code: Its exit code; None if it hung or could not be started.
        duration_s: Seconds that it ran.
        timed_out: Whether it was killed because it hung.
    """

    text: str
    code: int | None
    duration_s: float
    timed_out: bool = False


class Subprocess:
    """A running program, whose output goes to files."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self._process = process
        self._directory = directory

    async def wait(self, within_s: float) -> bool:
        """Wait for its end; returns False if it still runs."""
        try:
            await asyncio.to_thread(self._process.wait, within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def read_output(self) -> str:
        """Return what it has printed so far."""
        return _read_text(self._directory / "out")

    def get_error_text(self) -> str:
        """Return the last line of its error output, or of its output if that is empty."""
        text = _read_text(self._directory / "err").strip() or self.read_output().strip()
        return text.splitlines()[-1].strip() if text else ""


@contextlib.contextmanager
def run_program(command: Sequence[str]) -> Generator[Subprocess]:
    """Run a program until the block ends, and kill it then if it still runs."""
    # The output goes to files, because a pipe stays open as long as any process that the program
    # started. Such a process is not killed: it may be the service itself.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with (directory / "out").open("wb") as out, (directory / "err").open("wb") as err:
            process = subprocess.Popen(  # noqa: S603 - the user's own program, without a shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                creationflags=NO_WINDOW,
            )
        try:
            yield Subprocess(process, directory)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_OUTPUT_BYTES).decode("utf-8", "replace")


async def run_command(command: list[str], timeout_s: float) -> CommandResult:
    """Run a command to its end and return its output; kill it if it takes too long."""
    started_at = time.monotonic()
    try:
        with run_program(command) as program:
            if not await program.wait(timeout_s):
                return CommandResult("", None, time.monotonic() - started_at, timed_out=True)
            return CommandResult(program.read_output(), program.code, time.monotonic() - started_at)
    except OSError:
        return CommandResult("", None, time.monotonic() - started_at)


async def discover_urls(timeout_s: float = TIMEOUT_S) -> tuple[str, ...]:
    """Return the addresses that the installed `foundry` reports, best first."""
    program = shutil.which("foundry")
    if program is None:
        return ()
    # Both dialects run at the same time. The one that the command does not know may hang.
    commands = [
        asyncio.ensure_future(run_command([program, *arguments], timeout_s))
        for arguments in (SERVER_STATUS, SERVICE_STATUS)
    ]
    try:
        done, pending = await asyncio.wait(commands, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            found = any(parse_urls(task.result().text, task.result().text) for task in done)
            await asyncio.wait(pending, timeout=OTHER_DIALECT_TIMEOUT_S if found else None)
        return parse_urls(*(task.result().text if task.done() else "" for task in commands))
    finally:
        for task in commands:
            task.cancel()
        await asyncio.gather(*commands, return_exceptions=True)


def parse_urls(server: str, service: str) -> tuple[str, ...]:
    """Return the addresses of this machine in the output of the two dialects, best first."""
    addresses: dict[str, None] = {}  # a set that keeps the order
    for url in (*_parse_server_urls(server), *_URL.findall(_COLOUR.sub("", service))):
        try:
            address = normalize_url(url)
        except ConfigurationError:
            continue  # the text only looks like an address
        if address not in addresses and is_own_address(address):
            addresses[address] = None
    return tuple(addresses)


def _parse_server_urls(output: str) -> list[str]:
    """Return the `webUrls` of the JSON output, or those of the table that 0.10.2 prints."""
    for document in iter_json_objects(output):
        urls = find_member(document, "webUrls")
        if urls is not None:
            texts: list[Any] = urls if isinstance(urls, list) else [urls]  # pyright: ignore[reportUnknownVariableType] # JSON
            return [url for text in texts if isinstance(text, str) for url in _URL.findall(text)]
    rows = _WEB_URLS.findall(_COLOUR.sub("", output))
    return [url for row in rows for url in _URL.findall(row)]


def is_own_address(url: str) -> bool:
    """Return whether the host of a URL is an address of this machine."""
    # Prompts must stay on this machine. Other names are not resolved: the answer may come from the
    # network.
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if address.is_loopback:
        return True
    import psutil  # noqa: PLC0415 - few services listen on anything but the loopback

    own_addresses = {
        interface_address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for interface_address in addresses
    }
    return str(address) in own_addresses


def iter_json_objects(output: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in an output."""
    # Log lines may surround them, with braces of their own, so every brace is tried.
    output = _COLOUR.sub("", output)
    decoder = json.JSONDecoder()
    start = output.find("{")
    for _ in range(MAX_CANDIDATES):
        if start < 0:
            return
        try:
            document, end = decoder.raw_decode(output, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            yield document
        start = output.find("{", end)


def find_member(document: object, name: str, depth: int = MAX_DEPTH) -> Any:
    """Find the value of a member, in any case, in a JSON object or in the objects within it."""
    if depth == 0 or not isinstance(document, dict):
        return None
    members = cast("dict[str, Any]", document)
    for key, value in members.items():
        if key.lower() == name.lower():
            return value
    inner = (find_member(value, name, depth - 1) for value in members.values())
    return next((value for value in inner if value is not None), None)


# The output of `foundry model list -o json`, known from programs that read it
# (docs/foundry-local-service.md, 2): `{"models": [{"alias", "id", "type", "device", …}]}`,
# and with `--variants`: `{"variants": [{"alias", "variantId", "cached", "fileSizeMb", …}]}`.
class _Listed(msgspec.Struct, rename="camel"):
    alias: str
    id: str = ""
    variant_id: str = ""
    cached: bool = False
    type: str | None = None
    device: str | None = None
    file_size_mb: float | None = None


class _Listing(msgspec.Struct):
    models: list[_Listed] | None = None
    variants: list[_Listed] | None = None


class FoundryModels:
    """Manages the models of one 0.10 service with the `foundry` command."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    async def is_available(self) -> bool:
        """Return whether the installed `foundry` manages this service."""
        if not is_loopback(self._base_url):
            return False
        port = urlsplit(self._base_url).port
        urls = await discover_urls(STATUS_TIMEOUT_S)
        return any(is_loopback(url) and urlsplit(url).port == port for url in urls)

    async def list_models(self) -> Sequence[Model]:
        """List every variant, or the main ones if the command does not know `--variants`."""
        variants, loaded = await asyncio.gather(self._list(*_LIST_ALL), self._list("--loaded"))
        listed = await self._list() if variants is None else variants
        loaded_ids = {_get_id(item) for item in self._require(loaded)}
        return [_to_model(item, loaded_ids) for item in self._require(listed)]

    async def get_loaded_ids(self) -> frozenset[str]:
        """Return the ids of the models in memory."""
        return frozenset(_get_id(item) for item in self._require(await self._list("--loaded")))

    async def load(self, model_id: str) -> None:
        async def is_done() -> bool:
            return model_id in await self.get_loaded_ids()

        await self._run_until(is_done, "load", model_id)

    async def unload(self, model_id: str) -> None:
        async def is_done() -> bool:
            return model_id not in await self.get_loaded_ids()

        await self._run_until(is_done, "unload", model_id)

    async def download(self, model_id: str) -> AsyncGenerator[float, None]:
        """Download a model and yield percent, as far as the command prints any.

        Closing the generator kills the command; the server may continue (issue 365).
        """
        with self._run_verb("download", model_id) as program:
            percent = 0.0
            ended = False
            while not ended:
                ended = await program.wait(POLL_S)
                if (current := _parse_last_percent(program.read_output())) > percent:
                    percent = current
                    yield percent
            if program.code != 0:
                raise self._make_error(
                    DownloadFailed, "download", model_id, program.get_error_text()
                )
        if not any(model.cached and model.id == model_id for model in await self.list_models()):
            reason = "it succeeded, but the model is not listed as cached"
            raise self._make_error(DownloadFailed, "download", model_id, reason)

    async def _run_until(
        self, is_done: Callable[[], Awaitable[bool]], verb: str, model_id: str
    ) -> None:
        error_type = ModelLoadFailed if verb == "load" else ModelError
        if await is_done():
            return
        with self._run_verb(verb, model_id) as program:
            try:
                async with asyncio.timeout(LOAD_TIMEOUT_S):
                    ended = False
                    # The list decides, since the command may run long after the model is loaded.
                    while not await is_done():
                        if ended:
                            reason = program.get_error_text()
                            raise self._make_error(error_type, verb, model_id, reason)
                        ended = await program.wait(POLL_S)
            except TimeoutError as error:
                reason = f"it was not done after {LOAD_TIMEOUT_S:g} s"
                raise self._make_error(error_type, verb, model_id, reason) from error

    @contextlib.contextmanager
    def _run_verb(self, verb: str, model_id: str) -> Generator[Subprocess]:
        if not _PLAIN_ID.fullmatch(model_id):
            raise ModelError(
                f"{model_id!r} cannot be used on a command line",
                hint=f"Run `foundry model {verb}` yourself.",
                service=self._base_url,
            )
        try:
            with run_program([_find_program(), "model", verb, model_id]) as program:
                yield program
        except OSError as error:
            raise self._make_error(ModelError, verb, model_id, str(error)) from error

    async def _list(self, *options: str) -> list[_Listed] | None:
        command = [_find_program(), "model", "list", *options, "-o", "json"]
        result = await run_command(command, LIST_TIMEOUT_S)
        for document in iter_json_objects(result.text):
            try:
                listing = msgspec.convert(document, _Listing)
            except ValueError:  # includes msgspec's errors; a log line may contain JSON too
                continue
            listed = listing.models if listing.variants is None else listing.variants
            if listed is not None:
                return listed
        return None

    def _require(self, listed: list[_Listed] | None) -> list[_Listed]:
        if listed is None:
            raise ProtocolError(
                "`foundry model list -o json` prints no list of models",
                hint="Run it yourself to see what is wrong.",
                service=self._base_url,
            )
        return listed

    def _make_error(
        self, error_type: type[ModelError], verb: str, model_id: str, reason: str
    ) -> ModelError:
        message = f"`foundry model {verb} {model_id}` failed"
        return error_type(
            f"{message}: {reason}" if reason else message, model=model_id, service=self._base_url
        )


def _find_program() -> str:
    return shutil.which("foundry") or "foundry"


def _get_id(item: _Listed) -> str:
    return item.variant_id or item.id


def _to_model(item: _Listed, loaded_ids: set[str]) -> Model:
    model_id = _get_id(item)
    return Model(
        id=model_id,
        alias=item.alias,
        catalog="public",
        cached=item.cached or model_id in loaded_ids,
        loaded=model_id in loaded_ids,
        task=item.type,
        device=item.device and item.device.upper(),
        size_mb=None if item.file_size_mb is None else round(item.file_size_mb),
    )


def _parse_last_percent(output: str) -> float:
    """Return the last percentage in an output; 0 if it has none."""
    # A progress bar overwrites its line, with a carriage return before each new text.
    for line in reversed(output.replace("\r", "\n").split("\n")):
        percent = parse_percent(line.encode())
        if percent is not None:
            return percent
    return 0.0
