"""The models of a 0.10 server, managed by the user's own `foundry`.

Its JSON is known from programs that read it (foundry-local-service.md, 2): `foundry model list -o
json` prints `{"models": [{"alias", "id", "type", "device", "cached", …}]}`, with `--variants` as
`{"variants": [{"alias", "variantId", "cached", "fileSizeMb", …}]}`. Log lines may come before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import msgspec

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
    from collections.abc import (
        AsyncGenerator,
        Awaitable,
        Callable,
        Generator,
        Iterable,
        Iterator,
        Sequence,
    )

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


MAX_OUTPUT_BYTES = 16 * 2**20
"""What is read of an output. The longest is the whole catalog as JSON, below 1 MB."""


class Subprocess:
    """One run of a program.

    Its output goes to files, because a pipe would stay open as long as any process that the
    program left behind.
    """

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self._process = process
        self._directory = directory

    async def wait(self, within_s: float) -> bool:
        """Wait for its end; False if it runs on."""
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
        """What it has printed so far."""
        return _read_output(self._directory / "out")

    def get_error_text(self) -> str:
        """The last line that it has printed, of its errors if there are any; empty without."""
        text = _read_output(self._directory / "err").strip() or self.read_output().strip()
        return text.splitlines()[-1].strip() if text else ""


@contextlib.contextmanager
def run_program(command: Sequence[str]) -> Generator[Subprocess]:
    """Run a program until the block ends, which kills it if it has not ended by itself.

    What it has started is left alone: it may be the service's own process.

    Raises:
        OSError: It cannot be started.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with (directory / "out").open("wb") as out, (directory / "err").open("wb") as err:
            process = subprocess.Popen(  # noqa: S603 - the user's own program; see foundry_cli
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                creationflags=_get_creation_flags(),
            )
        try:
            yield Subprocess(process, directory)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _read_output(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_OUTPUT_BYTES).decode("utf-8", "replace")


def _get_creation_flags() -> int:
    if sys.platform == "win32":
        return subprocess.CREATE_NO_WINDOW
    return 0


TIMEOUT_S = 3.0
"""It takes a second on real machines, and is known to hang."""

OTHER_DIALECT_TIMEOUT_S = 0.5
"""How long the other dialect is waited for when one has named a service."""

SERVER_STATUS = ("server", "status", "-o", "json")
SERVICE_STATUS = ("service", "status")
"""The same question to 0.10, and to 0.3 to 0.9."""

MAX_CANDIDATES = 1000
"""Braces that are looked at in an output; log lines have some, a long listing has very many."""

MAX_DEPTH = 4
_URL = re.compile(r"https?://[^\s/\"'<>;,|]+:\d+")
_COLOUR = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
_WEB_URLS = re.compile(
    r"^.*\bWeb ?URLs?\b.*(?:\n(?=[^\n:]*https?://).*)*", re.MULTILINE | re.IGNORECASE
)
"""The row of a table, with the rows below it that only go on with URLs."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command said.

    Attributes:
        text: Its output; empty if it hung.
        code: Its exit code; None if it hung or could not be started.
        duration_s: Seconds until it was over.
        timed_out: Whether it had to be killed.
    """

    text: str
    code: int | None
    duration_s: float
    timed_out: bool = False


async def discover_urls(timeout_s: float = TIMEOUT_S) -> tuple[str, ...]:
    """The addresses that the installed `foundry` names, best first; none without it.

    Both of its dialects are asked at once: 0.10 knows `server`, earlier ones know `service`.
    """
    program = shutil.which("foundry")
    if program is None:
        return ()
    commands = [
        asyncio.ensure_future(run_command([program, *question], timeout_s))
        for question in (SERVER_STATUS, SERVICE_STATUS)
    ]
    try:
        done, pending = await asyncio.wait(commands, return_when=asyncio.FIRST_COMPLETED)
        if pending:  # the dialect that it does not know may hang
            known = any(parse_urls(answer.result().text, answer.result().text) for answer in done)
            await asyncio.wait(pending, timeout=OTHER_DIALECT_TIMEOUT_S if known else None)
        return parse_urls(*(answer.result().text if answer.done() else "" for answer in commands))
    finally:
        for answer in commands:
            answer.cancel()
        await asyncio.gather(*commands, return_exceptions=True)


def parse_urls(server: str, service: str) -> tuple[str, ...]:
    """The addresses of this machine in what the two dialects print, best first."""
    return tuple(
        _normalize_urls([*_parse_server_urls(server), *_URL.findall(_COLOUR.sub("", service))])
    )


def _parse_server_urls(output: str) -> list[str]:
    """`webUrls` of the JSON, which log lines may surround; of the table of 0.10.2 otherwise."""
    for document in iter_json_objects(output):
        urls = find_member(document, "webUrls")
        if urls is not None:
            texts: list[Any] = urls if isinstance(urls, list) else [urls]  # pyright: ignore[reportUnknownVariableType] # JSON
            return [url for text in texts if isinstance(text, str) for url in _URL.findall(text)]
    rows = _WEB_URLS.findall(_COLOUR.sub("", output))
    return [url for row in rows for url in _URL.findall(row)]


def _normalize_urls(urls: Iterable[str]) -> Iterable[str]:
    seen: set[str] = set()
    for url in urls:
        try:
            address = normalize_url(url)
        except ConfigurationError:
            continue  # not an address after all
        if address not in seen and is_own_address(address):
            seen.add(address)
            yield address


def is_own_address(url: str) -> bool:
    """Whether a URL names this machine by an address of its own: prompts stay here.

    Other names are not looked up, since the answer may come from the network.
    """
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

    own = {
        interface_address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for interface_address in addresses
    }
    return str(address) in own


async def run_command(command: list[str], timeout_s: float) -> CommandResult:
    """What a command prints; nothing of one that hangs, which is killed."""
    began_at = time.monotonic()
    try:
        with run_program(command) as program:
            if not await program.wait(timeout_s):
                return CommandResult("", None, time.monotonic() - began_at, timed_out=True)
            return CommandResult(program.read_output(), program.code, time.monotonic() - began_at)
    except OSError:
        return CommandResult("", None, time.monotonic() - began_at)


def iter_json_objects(output: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in an output, which log lines may surround, with braces of their own."""
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
    """The value of a member, however it is capitalised, at the top of an object or within it."""
    if depth == 0 or not isinstance(document, dict):
        return None
    members = cast("dict[str, Any]", document)
    for key, value in members.items():
        if key.lower() == name.lower():
            return value
    inner = (find_member(value, name, depth - 1) for value in members.values())
    return next((value for value in inner if value is not None), None)


STATUS_TIMEOUT_S = 10.0
LIST_TIMEOUT_S = 60.0
"""The command asks the remote catalog, whose time-outs it waits for."""

POLL_S = 0.5
_LIST_ALL = ("--variants", "--limit", "500")
_PLAIN_ID = re.compile(r"[A-Za-z0-9][\w.:+/-]*")
"""What goes to a command line: no option, and nothing that a batch file would take for more."""


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
    """Manages the models of one service by the command that manages it.

    Args:
        base_url: The service's address.
    """

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    async def is_available(self) -> bool:
        """Whether there is a `foundry` that names this very service as its own."""
        if not is_loopback(self._base_url):
            return False
        port = urlsplit(self._base_url).port
        urls = await discover_urls(STATUS_TIMEOUT_S)
        return any(is_loopback(url) and urlsplit(url).port == port for url in urls)

    async def list_models(self) -> Sequence[Model]:
        """Every variant that it lists; of a command that knows no `--variants`, the main ones."""
        every, loaded = await asyncio.gather(self._list(*_LIST_ALL), self._list("--loaded"))
        listed = await self._list() if every is None else every
        in_memory = {_get_id(item) for item in self._require(loaded)}
        return [_to_model(item, in_memory) for item in self._require(listed)]

    async def get_loaded_ids(self) -> frozenset[str]:
        """Ids of the models in memory."""
        return frozenset(_get_id(item) for item in self._require(await self._list("--loaded")))

    async def load(self, model_id: str) -> None:
        """Have a model loaded. The command may run on long after: its list is what counts.

        Raises:
            ModelLoadFailed: The command failed, or took too long.
        """

        async def is_done() -> bool:
            return model_id in await self.get_loaded_ids()

        await self._poll_until(is_done, "load", model_id)

    async def unload(self, model_id: str) -> None:
        """Have a model unloaded.

        Raises:
            ModelError: The command failed, or took too long.
        """

        async def is_done() -> bool:
            return model_id not in await self.get_loaded_ids()

        await self._poll_until(is_done, "unload", model_id)

    async def download(self, model_id: str) -> AsyncGenerator[float, None]:
        """Have a model downloaded: percent, as far as the command prints any.

        Closing the generator kills the command; the server may go on (issue 365).

        Raises:
            DownloadFailed: It failed, or the model is not listed as cached after it.
        """
        with self._run_verb("download", model_id) as program:
            percent = 0.0
            ended = False
            while not ended:
                ended = await program.wait(POLL_S)
                if (current := _parse_percent(program.read_output())) > percent:
                    percent = current
                    yield percent
            if program.code != 0:
                raise self._make_error(
                    DownloadFailed, "download", model_id, program.get_error_text()
                )
        if not any(model.cached and model.id == model_id for model in await self.list_models()):
            why = "it ended well, but the model is not listed as cached"
            raise self._make_error(DownloadFailed, "download", model_id, why)

    async def _poll_until(
        self, is_done: Callable[[], Awaitable[bool]], verb: str, model_id: str
    ) -> None:
        kind = ModelLoadFailed if verb == "load" else ModelError
        if await is_done():
            return
        with self._run_verb(verb, model_id) as program:
            try:
                async with asyncio.timeout(LOAD_TIMEOUT_S):
                    ended = False
                    while not await is_done():
                        if ended:
                            raise self._make_error(kind, verb, model_id, program.get_error_text())
                        ended = await program.wait(POLL_S)
            except TimeoutError as error:
                why = f"it was not done after {LOAD_TIMEOUT_S:g} s"
                raise self._make_error(kind, verb, model_id, why) from error

    @contextlib.contextmanager
    def _run_verb(self, verb: str, model_id: str) -> Generator[Subprocess]:
        if not _PLAIN_ID.fullmatch(model_id):
            raise ModelError(
                f"{model_id!r} is no name for a command line",
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
        answer = await run_command(command, LIST_TIMEOUT_S)
        for document in iter_json_objects(answer.text):
            try:
                listing = msgspec.convert(document, _Listing)
            except ValueError:  # of which msgspec's errors are; a log line may hold JSON too
                continue
            listed = listing.models if listing.variants is None else listing.variants
            if listed is not None:
                return listed
        return None

    def _require(self, listed: list[_Listed] | None) -> list[_Listed]:
        if listed is None:
            raise ProtocolError(
                "`foundry model list -o json` prints no list of models",
                hint="Run it yourself: it tells what is wrong.",
                service=self._base_url,
            )
        return listed

    def _make_error(self, kind: type[ModelError], verb: str, model_id: str, why: str) -> ModelError:
        message = f"`foundry model {verb} {model_id}` failed"
        return kind(f"{message}: {why}" if why else message, model=model_id, service=self._base_url)


def _find_program() -> str:
    return shutil.which("foundry") or "foundry"


def _get_id(item: _Listed) -> str:
    return item.variant_id or item.id


def _to_model(item: _Listed, in_memory: set[str]) -> Model:
    model_id = _get_id(item)
    return Model(
        id=model_id,
        alias=item.alias,
        catalog="public",
        cached=item.cached or model_id in in_memory,
        loaded=model_id in in_memory,
        task=item.type,
        device=item.device and item.device.upper(),
        size_mb=None if item.file_size_mb is None else round(item.file_size_mb),
    )


def _parse_percent(output: str) -> float:
    """The last percentage of an output; 0 without any."""
    lines = reversed(output.replace("\r", "\n").split("\n"))
    return next(
        (percent for line in lines if (percent := parse_percent(line.encode())) is not None), 0.0
    )
