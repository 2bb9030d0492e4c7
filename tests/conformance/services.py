"""The services under test: real ones where they run here, and fakes of the others."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from engines import run_engine
from foundry_api import FoundryAPIClient
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.gateway import Gateway
from support.fakes.fake_cli010 import FakeCli010Service, install_fake_cli010
from support.fakes.fake_legacy import FakeLegacyService
from support.loopback_catalog import (
    ALIAS,
    REASONING_TAGS,
    TOOL_CALL_TAGS,
    VARIANT,
    add_to_cache,
    make_entity,
    run_catalog,
)
from support.scripted_model.audio import build_transcriber
from support.scripted_model.embeddings import build_embedder
from support.scripted_model.vision import build_vision_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from foundry_api.types.messages import ServiceGeneration

BROKEN = "broken"
FAR_AWAY = "far-away"
OTHER, OTHER_VARIANT = "nickname", "Scripted-other-instruct-generic-cpu"
"""A model whose id reveals neither its alias nor that it supports tools."""

THINKER, THINKER_VARIANT = "scripted-thinker", "Scripted-thinker-instruct-generic-cpu"
"""A model that is known to reason."""

EMBEDDER, EMBEDDER_VARIANT = "scripted-embed", "Scripted-embed-generic-cpu"
LISTENER, LISTENER_VARIANT = "scripted-whisper", "Scripted-whisper-generic-cpu"
SEER, SEER_VARIANT = "scripted-vision", "Scripted-vision-generic-cpu"

VERSIONS: Mapping[ServiceGeneration, str] = {
    "sdk-1": "1.2.4",
    "sdk-2.0": "2.0.1",
    "sdk-2.1": "2.2.1",
}
"""The version that is tested for a generation."""

MEASURED: tuple[ServiceGeneration, ...] = (*VERSIONS, "gateway")
"""Generations that run here: the real services, and a gateway in front of the newest one."""

FAKE_GENERATIONS: tuple[ServiceGeneration, ...] = ("legacy", "cli-0.10")
"""Generations of the CLI, which runs only on Windows and macOS."""


@dataclass(frozen=True)
class Service:
    """A service under test.

    Attributes:
        service_generation: Its generation.
        base_url: Its address.
        model: The id of the scripted model in chat completions.
        process: The process that runs it, or the engine behind a gateway; None for a fake, which
            runs in this process.
    """

    service_generation: ServiceGeneration
    base_url: str
    model: str
    process: psutil.Process | None = None

    @property
    def is_fake(self) -> bool:
        return self.process is None

    def cpu_s(self) -> float:
        """CPU seconds that the process has used so far."""
        assert self.process
        spent = self.process.cpu_times()
        return spent.user + spent.system


def prepare(home: Path, generation: ServiceGeneration) -> None:
    """A cache with models for chat, embeddings, audio and vision, and one that cannot be loaded."""
    for variant in (VARIANT, OTHER_VARIANT, THINKER_VARIANT):
        add_to_cache(home / "cache", variant, markers=generation != "sdk-1")
    add_to_cache(home / "cache", EMBEDDER_VARIANT, build=build_embedder)
    add_to_cache(home / "cache", LISTENER_VARIANT, build=build_transcriber)
    add_to_cache(home / "cache", SEER_VARIANT, build=build_vision_model)
    directory = home / "cache" / "tests" / "Broken-generic-cpu-1" / "v1"
    directory.mkdir(parents=True)
    (directory / "inference_model.json").write_text('{"Name": "Broken-generic-cpu:1"}', "utf-8")
    (directory / "genai_config.json").write_text("{}", "utf-8")


@contextlib.asynccontextmanager
async def run_fake(generation: ServiceGeneration, directory: Path) -> AsyncIterator[Service]:
    """A fake of a service that cannot run here.

    Args:
        generation: The generation of the service.
        directory: The directory for the fake of `foundry`, which has to be on PATH.
    """
    model = f"{VARIANT}:1"
    if generation == "legacy":
        async with FakeLegacyService() as legacy:
            yield Service(generation, legacy.base_url, model)
        return
    async with FakeCli010Service() as server:
        install_fake_cli010(directory, server)
        yield Service(generation, server.base_url, model)


@contextlib.asynccontextmanager
async def run_gateway(engine: Service, directory: Path) -> AsyncIterator[Service]:
    """A gateway in front of a service, with what the service needs to be measured through it."""
    config = GatewayConfig(port=0, keep_alive_s=1.0)
    async with (
        FoundryAPIClient(engine.base_url) as client,
        Gateway(config, client, directory) as gateway,
    ):
        yield Service("gateway", gateway.url, engine.model, engine.process)


@contextlib.contextmanager
def run_suite_catalog() -> Iterator[str]:
    """The scripted models, one that cannot be loaded, and one that is not cached."""
    entities = [
        make_entity(ALIAS, VARIANT),
        make_entity(OTHER, OTHER_VARIANT, tags={}),
        make_entity(THINKER, THINKER_VARIANT, tags=TOOL_CALL_TAGS | REASONING_TAGS),
        make_entity(EMBEDDER, EMBEDDER_VARIANT, task="embeddings", tags={}),
        make_entity(LISTENER, LISTENER_VARIANT, task="automatic-speech-recognition", tags={}),
        make_entity(SEER, SEER_VARIANT, task="vision-language-chat", tags={}),
        make_entity(BROKEN, "Broken-generic-cpu"),
        make_entity(FAR_AWAY, "Far-away-generic-cpu", 3),
    ]
    with run_catalog(entities) as url:
        yield url


@contextlib.contextmanager
def run_real(generation: ServiceGeneration, home: Path, *, port: int = 0) -> Iterator[Service]:
    """Run the real service of a generation."""
    if not home.exists():
        prepare(home, generation)
    model = VARIANT if generation == "sdk-1" else f"{VARIANT}:1"
    with (
        run_suite_catalog() as catalog_url,
        run_engine(VERSIONS[generation], home, catalog_url, port=port) as engine,
    ):
        process = psutil.Process(engine.pid)
        yield Service(generation, engine.base_url, model, process)
