"""`foundry-api models` with the real engine, and a catalog and downloads on loopback."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest

from foundry_api.engine import shared
from foundry_api.engine.process import HostOptions
from foundry_api.storage.paths import Paths
from support.cli_program import Terminal, run
from support.loopback_blobs import RANGE_BYTES, FakeDownloadSite, run_download_site
from support.loopback_catalog import ALIAS, VARIANT, make_entity, run_catalog
from support.scripted_model import build, script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = f"{VARIANT}:1"
OTHER = "Scripted-mini-instruct-older-generic-cpu"
linux = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the engine may not trust SSL_CERT_FILE"
)


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[FakeDownloadSite]:
    build(tmp_path / "blobs")
    files = {f"v1/{path.name}": path.read_bytes() for path in (tmp_path / "blobs").iterdir()}
    with run_download_site({**files, "v1/more.bin": os.urandom(3 * RANGE_BYTES)}) as served:
        yield served


@pytest.fixture
def home(own_home: Path, blobs: FakeDownloadSite) -> Iterator[Path]:
    entities = [
        make_entity(ALIAS, OTHER, size_mb=7),
        make_entity("far-away", "Far-away-generic-cpu", 3, size_mb=2662),
        make_entity(ALIAS, VARIANT, size_mb=6),
    ]
    with run_catalog(entities) as url:
        paths = Paths.from_home(own_home)
        environ = {**os.environ, **blobs.environ}
        options = HostOptions(paths=paths, models=(), catalog_url=url, environ=environ)
        shared.start(paths, idle_timeout_s=60, options=options)
        try:
            yield own_home
        finally:
            shared.stop(paths)


def test_models_are_searched_here_and_in_the_catalog(home: Path) -> None:
    found = run("models", "search", "far", home=home)
    assert (found.returncode, found.stderr) == (0, "")
    assert [line.split()[0] for line in found.stdout.splitlines()] == ["ALIAS", "far-away"]
    document = json.loads(run("models", "search", "CPU", "far-AWAY", "--json", home=home).stdout)
    assert [model["id"] for model in document["models"]] == ["Far-away-generic-cpu:3"]
    missing = run("models", "search", "far-awy", home=home)
    assert missing.stdout == "No model matches far-awy.\nSimilar: far-away\n"


@linux
def test_a_model_is_pulled_shown_and_removed(home: Path) -> None:
    pulled = run("models", "pull", MODEL, home=home)
    assert (pulled.returncode, pulled.stderr) == (0, "")
    assert pulled.stdout == f"{ALIAS} is on this machine: {MODEL}\n"

    listed = run("models", "list", "--catalog", home=home).stdout.splitlines()
    assert [" ".join(line.split()) for line in listed] == [
        "ALIAS STATE SIZE DEVICE TASK CONTEXT LICENCE ID",
        f"{ALIAS} cached 6 MB CPU chat 8192 MIT {MODEL}",
        f"catalog 7 MB CPU chat 8192 MIT {OTHER}:1",
        "far-away catalog 2.6 GB CPU chat 8192 MIT Far-away-generic-cpu:3",
    ]

    shown = run("models", "show", ALIAS, home=home).stdout
    assert shown.splitlines()[0].split() == [MODEL, "cached"]
    assert "publisher       tests" in shown
    assert "calls tools     yes" in shown
    assert str(Paths.from_home(home).data) in shown
    assert f"{OTHER}:1  catalog" in shown
    described = json.loads(run("models", "show", MODEL, "--json", home=home).stdout)["models"]
    assert [(each["id"], each["max_output_tokens"]) for each in described] == [(MODEL, 2048)]

    assert run("models", "load", ALIAS, home=home).returncode == 0
    in_use = run("models", "remove", "-y", ALIAS, home=home)
    assert (in_use.returncode, in_use.stdout) == (1, "")
    assert f"`foundry-api models unload {ALIAS}`" in in_use.stderr
    run("models", "unload", ALIAS, home=home)
    removed = run("models", "remove", ALIAS, home=home)
    assert removed.stdout == f"{ALIAS} is deleted, which freed 6 MB: {MODEL}\n"
    assert run("models", "list", home=home).stdout.startswith("No model is on this machine.")


@linux
def test_a_terminal_shows_progress_and_ctrl_c_stops(home: Path, blobs: FakeDownloadSite) -> None:
    blobs.serve_only(6)
    with Terminal("models", "pull", MODEL, home=home) as terminal:
        terminal.expect("of 6 MB")
        terminal.interrupt()
        terminal.expect("Pull it again to resume.")
        assert terminal.exit_code() == 130
    blobs.serve_all()
    with Terminal("models", "pull", MODEL, home=home) as terminal:
        terminal.expect(f"is on this machine: {MODEL}")
        assert terminal.exit_code() == 0


@linux
def test_progress_as_json(home: Path, blobs: FakeDownloadSite) -> None:
    blobs.pause_s = 0.05
    pulled = run("models", "pull", MODEL, "--json", home=home)
    assert json.loads(pulled.stdout)["model"]["id"] == MODEL
    lines = [json.loads(line)["progress"] for line in pulled.stderr.splitlines()]
    assert lines
    assert {"model", "percent", "done_mb", "total_mb", "mb_per_s", "remaining_s"} == lines[0].keys()


@linux
def test_deleting_files_needs_a_confirmation(home: Path) -> None:
    run("models", "pull", MODEL, home=home)
    for answer, there in (("n", True), ("y", False)):
        with Terminal("models", "remove", ALIAS, home=home) as terminal:
            terminal.type_line(answer, f"Delete {MODEL} (6 MB)? [y/N]")
            assert terminal.exit_code() == int(there)
        assert (ALIAS in run("models", "list", home=home).stdout) is there


def test_a_registered_directory_is_served_over_rest(home: Path, tmp_path: Path) -> None:
    directory = str(tmp_path / "blobs")
    added = run("models", "register", directory, "--alias", "mine", home=home)
    assert added.stdout == "mine is registered: mine:1\n"
    shown = run("models", "show", "mine", home=home).stdout
    assert "local: registered on this machine" in shown
    assert directory in shown
    run("models", "load", "mine", home=home)

    service = shared.find_endpoint(Paths.from_home(home))
    assert service is not None
    body = {"model": "mine:1", "messages": [{"role": "user", "content": "say-hello"}]}
    request = urllib.request.Request(  # noqa: S310 - our own engine
        f"{service.base_url}/catalogs/local/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310 - as above
        answer = json.load(reply)
    assert answer["choices"][0]["message"]["content"] == script("say-hello").text

    run("models", "unload", "mine", home=home)
    forgotten = run("models", "remove", "mine", home=home)
    assert forgotten.stdout == "mine is no longer registered; its files are kept: mine:1\n"
    assert (tmp_path / "blobs" / "model.onnx").is_file()


def test_an_unknown_name_suggests_a_similar_one(home: Path) -> None:
    shown = run("models", "show", "far-awya", home=home)
    assert shown.returncode == 1
    assert "far-away" in shown.stderr
