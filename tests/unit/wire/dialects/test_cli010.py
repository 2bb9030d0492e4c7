"""The dialect of the CLI 0.10 server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from foundry_api.core.chat import make_chat_request
from foundry_api.types import errors
from foundry_api.types.models import Model
from foundry_api.wire.dialects.base import ServiceClient, ServiceStatus
from foundry_api.wire.dialects.cli010 import Cli010Dialect
from support.fake_transport import FakeResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from foundry_api.wire.transport import Request

LISTED = Model(id="phi-4-mini-instruct-generic-cpu:4", alias="phi-4-mini", catalog="public")
HI = make_chat_request([{"role": "user", "content": "Hi"}])
FLAGS = b'"IsDelta":false,"Successful":true,"HttpStatusCode":0'
LISTING = (
    b'{"data":[{"id":"phi-4-mini-instruct-generic-cpu","parent":"phi-4-mini",'
    + FLAGS
    + b'}],"object":"list",'
    + FLAGS
    + b"}"
)
NOT_LOADED = b'{"error":{"message":"Model \'x\' is not loaded. Please load the model first."}}'


@dataclass
class Server:
    """A transport that answers from a table of routes, and with 404 for others."""

    routes: Mapping[str, tuple[int, bytes]]
    asked: list[str] = field(default_factory=list)

    async def send(self, request: Request) -> FakeResponse:
        path = request.url.removeprefix("http://service")
        self.asked.append(path)
        return FakeResponse(*self.routes.get(path, (404, b"")))

    async def aclose(self) -> None:
        raise NotImplementedError


@dataclass
class Command:
    """A `ModelCommand` without a process."""

    there: bool = True
    listed: Sequence[Model] = ()
    in_memory: set[str] = field(default_factory=set[str])
    asked: int = 0

    async def is_available(self) -> bool:
        self.asked += 1
        return self.there

    async def list_models(self) -> Sequence[Model]:
        return self.listed

    async def get_loaded_ids(self) -> frozenset[str]:
        return frozenset(self.in_memory)

    async def load(self, model_id: str) -> None:
        self.in_memory.add(model_id)

    async def unload(self, model_id: str) -> None:
        self.in_memory.discard(model_id)

    async def download(self, model_id: str) -> AsyncGenerator[float, None]:
        yield 50.0
        self.listed = [*self.listed, Model(id=model_id, alias="a", catalog="public", cached=True)]


def dialect(
    routes: Mapping[str, tuple[int, bytes]] | None = None, command: Command | None = None
) -> tuple[Cli010Dialect, Server]:
    server = Server({"/v1/models": (200, LISTING), **(routes or {})})
    return Cli010Dialect(ServiceClient(server, "http://service", {}, command)), server


async def test_model_routes_are_probed_once() -> None:
    service, server = dialect(command=Command())
    for _ in range(3):
        await service.load(LISTED)
        assert await service.get_loaded_ids() == {LISTED.id}
        await service.unload(LISTED)
    assert server.asked == ["/models/loaded"]


async def test_model_routes_are_preferred_to_the_command() -> None:
    command = Command()
    service, server = dialect(
        {
            "/models/loaded": (200, b'["phi-4-mini-instruct-generic-cpu:4"]'),
            f"/models/load/{LISTED.id}": (200, b""),
            f"/models/unload/{LISTED.id}": (200, b""),
        },
        command,
    )
    await service.load(LISTED)
    assert await service.get_loaded_ids() == {LISTED.id}
    await service.unload(LISTED)
    assert not command.asked
    assert f"/models/load/{LISTED.id}" in server.asked


async def test_failed_load_over_http_is_typed() -> None:
    service, _ = dialect({"/models/loaded": (200, b"[]"), f"/models/load/{LISTED.id}": (500, b"")})
    with pytest.raises(errors.ModelLoadFailed) as caught:
        await service.load(LISTED)
    assert caught.value.model == LISTED.id


@pytest.mark.parametrize("page", [b"<html>", b"{}", b""])
async def test_page_of_another_program_is_not_a_route(page: bytes) -> None:
    service, _ = dialect({"/models/loaded": (200, page)}, command := Command())
    await service.load(LISTED)
    assert command.in_memory == {LISTED.id}


async def test_id_without_version_becomes_the_loaded_one() -> None:
    """Inference requires the version, which `/v1/models` leaves out."""
    service, _ = dialect({"/models/loaded": (200, json.dumps([LISTED.id]).encode())})
    (model,) = await service.list_local_models()
    assert (model.id, model.alias, model.loaded) == (LISTED.id, "phi-4-mini", True)
    service, _ = dialect()
    (model,) = await service.list_local_models()
    assert (model.id, model.loaded) == ("phi-4-mini-instruct-generic-cpu", False)


async def test_command_lists_the_models() -> None:
    far = Model(id="far:1", alias="far", catalog="public", cached=False)
    here = Model(id="here:1", alias="here", catalog="public", cached=True)
    service, server = dialect(command=Command(listed=[far, here]))
    assert await service.list_local_models() == [here]
    assert await service.list_public_models() == [far, here]
    assert server.asked == []
    service, _ = dialect(command=Command())
    with pytest.raises(errors.CatalogUnavailable):
        await service.list_public_models()


async def test_command_installed_later_is_found() -> None:
    service, _ = dialect(command=(command := Command(there=False)))
    with pytest.raises(errors.UnsupportedFeature):
        await service.unload(LISTED)
    command.there = True
    await service.unload(LISTED)
    await service.unload(LISTED)
    assert command.asked == 2


@pytest.mark.parametrize("command", [None, Command(there=False)])
async def test_error_names_the_command_to_run(
    command: Command | None,
) -> None:
    service, server = dialect(command=command)
    with pytest.raises(errors.UnsupportedFeature) as unload:
        await service.unload(LISTED)
    with pytest.raises(errors.UnsupportedFeature) as download:
        await anext(service.download(LISTED))
    assert f"foundry model unload {LISTED.id}" in unload.value.hint
    assert f"foundry model download {LISTED.id}" in download.value.hint
    assert server.asked == ["/models/loaded"]


async def test_probe_finds_a_loaded_model() -> None:
    service, server = dialect({"/v1/chat/completions": (200, b"{}")})
    await service.load(LISTED)
    assert await service.get_loaded_ids() == {LISTED.id}
    assert server.asked.count("/v1/chat/completions") == 1


async def test_probe_of_an_unloaded_model_is_unsupported() -> None:
    service, _ = dialect({"/v1/chat/completions": (400, NOT_LOADED)})
    with pytest.raises(errors.UnsupportedFeature) as caught:
        await service.load(LISTED)
    assert f"foundry model load {LISTED.id}" in caught.value.hint
    assert isinstance(caught.value.__cause__, errors.ModelNotLoaded)


async def test_probe_passes_other_errors_on() -> None:
    service, _ = dialect({"/v1/chat/completions": (500, b"out of memory")})
    with pytest.raises(errors.ServerError, match="out of memory"):
        await service.load(LISTED)


async def test_unreachable_catalog_does_not_fail_the_status() -> None:
    body = b'{"error":{"message":"Failed to retrieve model list: Catalog request failed"}}'
    service, _ = dialect({"/v1/models": (500, body)})
    assert await service.get_status() == ServiceStatus("cli-0.10")
    assert await service.list_local_models() == []
    service, _ = dialect(
        {"/v1/models": (500, body), "/models/loaded": (200, json.dumps([LISTED.id]).encode())}
    )
    (model,) = await service.list_local_models()
    assert (model.id, model.alias, model.loaded) == (LISTED.id, "phi-4-mini", True)
    service, _ = dialect({"/v1/models": (503, b"")})
    with pytest.raises(errors.ServiceOverloaded):
        await service.get_status()


@pytest.mark.parametrize("reason", [b"", b',"finish_reason":"stop"'])
def test_finish_reason_may_be_missing(reason: bytes) -> None:
    """0.8 sends none, SDK 1.0 does; for 0.10 it is unknown."""
    service, _ = dialect()
    decoder = service.make_chat_decoder(LISTED, HI)
    chunk = b'data: {"choices":[{"delta":{"content":"Hi"},"message":{"content":"Hi"},"index":0'
    stream = chunk + reason + b"}]," + FLAGS + b"}\n\ndata: [DONE]\n\n"
    assert [each.content for each in decoder.feed(stream)] == ["Hi"]
    assert decoder.finish().finish_reason == "stop"
