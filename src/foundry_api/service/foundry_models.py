"""The models of a 0.10 server, managed by the user's own `foundry`.

Its JSON is known from programs that read it (foundry-local-service.md, 2): `foundry model list -o
json` prints `{"models": [{"alias", "id", "type", "device", "cached", …}]}`, with `--variants` as
`{"variants": [{"alias", "variantId", "cached", "fileSizeMb", …}]}`. Log lines may come before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from foundry_api.errors import DownloadFailed, ModelError, ModelLoadFailed, ProtocolError
from foundry_api.messages import Model
from foundry_api.service.foundry_cli import announced_urls, ask, json_objects
from foundry_api.service.program import running
from foundry_api.wire.dialects.base import LOAD_TIMEOUT_S
from foundry_api.wire.dialects.progress import percent_of
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence

    from foundry_api.service.program import Program

__all__ = ["FoundryModels"]

STATUS_TIMEOUT_S = 10.0
LIST_TIMEOUT_S = 60.0
"""The command asks the remote catalog, whose time-outs it waits for."""

POLL_S = 0.5
_EVERY = ("--variants", "--limit", "500")
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

    async def available(self) -> bool:
        """Whether there is a `foundry` that names this very service as its own."""
        if not is_loopback(self._base_url):
            return False
        port = urlsplit(self._base_url).port
        urls = await announced_urls(STATUS_TIMEOUT_S)
        return any(is_loopback(url) and urlsplit(url).port == port for url in urls)

    async def models(self) -> Sequence[Model]:
        """Every variant that it lists; of a command that knows no `--variants`, the main ones."""
        every, loaded = await asyncio.gather(self._list(*_EVERY), self._list("--loaded"))
        listed = await self._list() if every is None else every
        in_memory = {_id(item) for item in self._must(loaded)}
        return [_model(item, in_memory) for item in self._must(listed)]

    async def loaded(self) -> frozenset[str]:
        """Ids of the models in memory."""
        return frozenset(_id(item) for item in self._must(await self._list("--loaded")))

    async def load(self, model_id: str) -> None:
        """Have a model loaded. The command may run on long after: its list is what counts.

        Raises:
            ModelLoadFailed: The command failed, or took too long.
        """

        async def is_done() -> bool:
            return model_id in await self.loaded()

        await self._until(is_done, "load", model_id)

    async def unload(self, model_id: str) -> None:
        """Have a model unloaded.

        Raises:
            ModelError: The command failed, or took too long.
        """

        async def is_done() -> bool:
            return model_id not in await self.loaded()

        await self._until(is_done, "unload", model_id)

    async def download(self, model_id: str) -> AsyncGenerator[float, None]:
        """Have a model downloaded: percent, as far as the command prints any.

        Closing the generator kills the command; the server may go on (issue 365).

        Raises:
            DownloadFailed: It failed, or the model is not listed as cached after it.
        """
        with self._started("download", model_id) as program:
            percent = 0.0
            ended = False
            while not ended:
                ended = await program.ended(POLL_S)
                if (now := _percent(program.output())) > percent:
                    percent = now
                    yield percent
            if program.code != 0:
                raise self._failed(DownloadFailed, "download", model_id, program.complaint())
        if not any(model.cached and model.id == model_id for model in await self.models()):
            why = "it ended well, but the model is not listed as cached"
            raise self._failed(DownloadFailed, "download", model_id, why)

    async def _until(
        self, is_done: Callable[[], Awaitable[bool]], verb: str, model_id: str
    ) -> None:
        kind = ModelLoadFailed if verb == "load" else ModelError
        if await is_done():
            return
        with self._started(verb, model_id) as program:
            try:
                async with asyncio.timeout(LOAD_TIMEOUT_S):
                    ended = False
                    while not await is_done():
                        if ended:
                            raise self._failed(kind, verb, model_id, program.complaint())
                        ended = await program.ended(POLL_S)
            except TimeoutError as error:
                why = f"it was not done after {LOAD_TIMEOUT_S:g} s"
                raise self._failed(kind, verb, model_id, why) from error

    @contextlib.contextmanager
    def _started(self, verb: str, model_id: str) -> Generator[Program]:
        if not _PLAIN_ID.fullmatch(model_id):
            raise ModelError(
                f"{model_id!r} is no name for a command line",
                hint=f"Run `foundry model {verb}` yourself.",
                service=self._base_url,
            )
        try:
            with running([_program(), "model", verb, model_id]) as program:
                yield program
        except OSError as error:
            raise self._failed(ModelError, verb, model_id, str(error)) from error

    async def _list(self, *options: str) -> list[_Listed] | None:
        command = [_program(), "model", "list", *options, "-o", "json"]
        answer = await ask(command, LIST_TIMEOUT_S)
        for document in json_objects(answer.text):
            try:
                listing = msgspec.convert(document, _Listing)
            except ValueError:  # of which msgspec's errors are; a log line may hold JSON too
                continue
            listed = listing.models if listing.variants is None else listing.variants
            if listed is not None:
                return listed
        return None

    def _must(self, listed: list[_Listed] | None) -> list[_Listed]:
        if listed is None:
            raise ProtocolError(
                "`foundry model list -o json` prints no list of models",
                hint="Run it yourself: it tells what is wrong.",
                service=self._base_url,
            )
        return listed

    def _failed(self, kind: type[ModelError], verb: str, model_id: str, why: str) -> ModelError:
        told = f"`foundry model {verb} {model_id}` failed"
        return kind(f"{told}: {why}" if why else told, model=model_id, service=self._base_url)


def _program() -> str:
    return shutil.which("foundry") or "foundry"


def _id(item: _Listed) -> str:
    return item.variant_id or item.id


def _model(item: _Listed, in_memory: set[str]) -> Model:
    model_id = _id(item)
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


def _percent(output: str) -> float:
    """The last percentage of an output; 0 without any."""
    lines = reversed(output.replace("\r", "\n").split("\n"))
    return next((told for line in lines if (told := percent_of(line.encode())) is not None), 0.0)
