"""The public catalog of the real engine: fresh, old, empty and never reached."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from foundry_api import CatalogUnavailable, FoundryAPIClient, ModelNotCached
from foundry_api.engine import shared
from foundry_api.engine.process import HostOptions
from foundry_api.storage.paths import Paths
from service.fakes import free_port
from support.cli_program import run
from support.loopback_catalog import (
    ALIAS,
    VARIANT,
    add_to_cache,
    make_entity,
    run_recording_catalog,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAR = "Far-away-generic-cpu:3"
FAR_AWAY = make_entity("far-away", "Far-away-generic-cpu", 3, size_mb=2662)


@pytest.fixture
def port() -> int:
    return free_port()


@contextlib.contextmanager
def engine(home: Path, port: int) -> Iterator[None]:
    """A shared engine that has not fetched the catalog yet."""
    options = HostOptions(
        paths=Paths.from_home(home), models=(), catalog_url=f"http://127.0.0.1:{port}"
    )
    shared.start(options.paths, idle_timeout_s=60, options=options)
    try:
        yield
    finally:
        shared.stop(options.paths)


def list_stored(home: Path) -> list[Path]:
    return sorted(Paths.from_home(home).state.glob("catalog-*.json"))


async def test_the_catalog_is_fetched_once_and_stored(own_home: Path, port: int) -> None:
    before = time.time()
    with run_recording_catalog([FAR_AWAY], port=port) as catalog, engine(own_home, port):
        async with FoundryAPIClient(home=own_home, max_retries=0) as client:
            listing = await client.models.catalog()
    assert (listing.fresh, listing.unreachable) == (True, None)
    assert before - 1 <= listing.fetched_at <= time.time()
    assert [model.id for model in listing.models] == [FAR]
    assert len(catalog.requests) == 1

    with engine(own_home, port):
        async with FoundryAPIClient(home=own_home, max_retries=0) as client:
            second = await client.models.catalog()
            assert second == listing
            with pytest.raises(ModelNotCached, match=r"\(2662 MB\)"):
                await client.complete("hi", model="far-away")


async def test_an_unchanged_catalog_is_fresh(own_home: Path, port: int) -> None:
    """The engine saves the catalog only when it has changed."""
    with run_recording_catalog([FAR_AWAY], port=port) as catalog:
        for times in (1, 2):
            started = time.time()
            with engine(own_home, port):
                async with FoundryAPIClient(home=own_home, max_retries=0) as client:
                    listing = await client.models.catalog(refresh=True)
            assert (listing.fresh, len(catalog.requests)) == (True, times)
            assert started - 1 <= listing.fetched_at <= time.time()


async def test_an_unreachable_catalog_returns_the_last_content(own_home: Path, port: int) -> None:
    with run_recording_catalog([FAR_AWAY], port=port), engine(own_home, port):
        async with FoundryAPIClient(home=own_home, max_retries=0) as client:
            first = await client.models.catalog()
    with engine(own_home, port):
        async with FoundryAPIClient(home=own_home, max_retries=0) as client:
            old = await client.models.catalog(refresh=True)
            assert old.models == first.models
            assert not old.fresh
            assert old.fetched_at == pytest.approx(first.fetched_at, abs=2)
            assert old.unreachable is not None
            assert f"127.0.0.1:{port}" in old.unreachable
            assert "http_client.cc" not in old.unreachable
            with pytest.raises(ModelNotCached):
                await client.models.load("far-away")
            with pytest.raises(CatalogUnavailable, match="foundry-api down"):
                await client.models.load("nobody-knows-this")


async def test_a_catalog_that_was_never_reached_is_not_an_empty_one(
    own_home: Path, port: int, tmp_path: Path
) -> None:
    with engine(own_home, port):
        async with FoundryAPIClient(home=own_home, max_retries=0) as client:
            with pytest.raises(CatalogUnavailable, match=f"127.0.0.1:{port}"):
                await client.models.catalog()
            assert await client.models.list() == []
    assert list_stored(own_home) == []
    empty = tmp_path / "empty"
    with run_recording_catalog([], port=port), engine(empty, port):
        async with FoundryAPIClient(home=empty, max_retries=0) as client:
            listing = await client.models.catalog()
    assert (listing.models, listing.fresh, listing.unreachable) == ((), True, None)


async def test_cached_and_loaded_are_current_without_the_catalog(own_home: Path, port: int) -> None:
    cached_entity = make_entity(ALIAS, VARIANT)
    with run_recording_catalog([FAR_AWAY, cached_entity], port=port), engine(own_home, port):
        async with FoundryAPIClient(home=own_home, max_retries=0) as client:
            assert not any(model.cached for model in (await client.models.catalog()).models)
    add_to_cache(Paths.from_home(own_home).data / "cache" / "models", VARIANT)
    with engine(own_home, port):
        async with FoundryAPIClient(home=own_home, max_retries=0) as client:
            [model] = await client.models.list()
            assert (model.id, model.cached, model.loaded) == (f"{VARIANT}:1", True, False)
            assert model.path is not None
            assert VARIANT in model.path
            await client.models.load(ALIAS)
            states = {
                model.id: (model.cached, model.loaded)
                for model in (await client.models.catalog()).models
            }
            assert states == {FAR: (False, False), f"{VARIANT}:1": (True, True)}
            variants = await client.models.show(ALIAS)
            assert [(model.publisher, model.supports_tools) for model in variants] == [
                ("tests", True)
            ]


async def test_a_damaged_file_is_ignored_and_replaced(own_home: Path, port: int) -> None:
    with run_recording_catalog([FAR_AWAY], port=port), engine(own_home, port):
        async with FoundryAPIClient(home=own_home, max_retries=0) as client:
            await client.models.catalog()
            [file] = list_stored(own_home)
            assert os.name == "nt" or file.stat().st_mode & 0o077 == 0
            first = file.read_bytes()
            for damage in (
                b"",
                b"{",
                first[:-10],
                first.replace(b"source", b"whence"),
                b"\xff\xfe",
            ):
                file.write_bytes(damage)
                assert [model.id for model in (await client.models.catalog()).models] == [FAR]
                assert json.loads(file.read_bytes())["models"] == json.loads(first)["models"]


def test_the_command_line_shows_the_age_of_the_catalog(own_home: Path, port: int) -> None:
    with run_recording_catalog([FAR_AWAY], port=port), engine(own_home, port):
        fresh = run("models", "list", "--catalog", home=own_home)
        assert (fresh.returncode, fresh.stderr) == (0, "")
        assert "2.6 GB" in fresh.stdout
    [file] = list_stored(own_home)
    stored = json.loads(file.read_bytes())
    stored |= {"asked_at": stored["asked_at"] - 3600}
    file.write_text(json.dumps(stored), encoding="utf-8")
    with engine(own_home, port):
        old = run("models", "list", "--catalog", home=own_home)
        assert old.returncode == 0
        assert old.stdout == fresh.stdout
        assert "The catalog cannot be reached; this listing was fetched just now." in old.stderr
        report = json.loads(run("models", "--catalog", "--json", home=own_home).stdout)
        assert not report["catalog"]["fresh"]
        assert f"127.0.0.1:{port}" in report["catalog"]["unreachable"]
