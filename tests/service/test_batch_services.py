"""A batch over two real services, of which one or both go away while it runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import TYPE_CHECKING, Any, Self

import psutil
import pytest

from foundry_api import FoundryClient
from foundry_api.batch.journal import read_status
from foundry_api.batch.types import get_journal_directory
from foundry_api.engine.supervisor import EngineHost, HostOptions
from foundry_api.storage.paths import Paths
from service.helpers import DEADLINE_S, wait_until
from support.cli_program import TIMEOUT_S, command, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINES = 160
ANSWER_TOKENS = 40
"""Together they take two cores a second and more, so that a service dies in the middle."""


class Services:
    """Two engines, each on a home of its own, with the demo model."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._hosts: list[EngineHost] = []
        self.urls: list[str] = []

    def start(self) -> list[str]:
        """Two more engines; where they serve."""
        new = [self._host(len(self._hosts) + number) for number in range(2)]
        self._hosts += new
        for host in new:
            host.start()
        self.urls = [asyncio.run(host.wait_ready()).base_url for host in new]
        return self.urls

    def _host(self, number: int) -> EngineHost:
        return EngineHost(HostOptions(paths=Paths.from_home(self._directory / f"home-{number}")))

    def kill(self, number: int) -> None:
        """As the kernel does when memory runs out."""
        pid = self._hosts[number].pid
        assert pid is not None
        process = psutil.Process(pid)
        process.kill()
        psutil.wait_procs([process], timeout=DEADLINE_S)

    def stop(self) -> None:
        for host in self._hosts:
            host.close()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    services = Services(tmp_path)
    yield services
    services.stop()


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"Tell me fact {number}.\n" for number in range(LINES)))
    return path


class Batch:
    """The command line of a batch, as a process of its own."""

    def __init__(self, prompts: Path, urls: list[str], *more: str) -> None:
        self.output = prompts.with_name("answers.jsonl")
        told = ["batch", "run", str(prompts), "-o", str(self.output), "--model", "demo", "--json"]
        told += ["--set", f"max_tokens={ANSWER_TOKENS}", "--base-urls", ",".join(urls), *more]
        self._process = subprocess.Popen(
            command(*told), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ended(self) -> tuple[int, dict[str, Any]]:
        """Its exit code, and what it told."""
        stdout, stderr = self._process.communicate(timeout=2 * TIMEOUT_S)
        assert b"Traceback" not in stderr, stderr.decode()
        return self._process.returncode, json.loads(stdout)

    def answered(self) -> list[str]:
        """The requests in the output."""
        lines = self.output.read_text(encoding="utf-8").splitlines()
        return sorted(json.loads(line)["custom_id"] for line in lines)


AWAY = {"ServiceNotRunning", "CircuitOpen"}
"""Whether the last try found nobody, or the breaker in front of nobody, is up to the moment."""

EVERY_LINE = sorted(f"line-{number + 1}" for number in range(LINES))


def are_asked(urls: list[str]) -> None:
    """Wait until each service has loaded a model, which none does before it is asked."""
    for url in urls:
        with FoundryClient(url) as client:
            wait_until(lambda client=client: client.health_check().loaded_models)  # type: ignore[misc]


def test_two_services_share_the_lines(services: Services, prompts: Path) -> None:
    with Batch(prompts, services.start()) as batch:
        are_asked(services.urls)
        code, told = batch.ended()
        assert (code, told["done"], told["failed"]) == (0, LINES, 0)
        assert batch.answered() == EVERY_LINE


def test_where_one_of_two_dies_the_other_answers_the_rest(
    services: Services, prompts: Path
) -> None:
    with Batch(prompts, services.start()) as batch:
        are_asked(services.urls)
        services.kill(0)
        code, told = batch.ended()
        assert (code, told["done"], told["failed"]) == (0, LINES, 0)
        assert batch.answered() == EVERY_LINE


def test_where_both_die_it_ends_and_goes_on_once_there_are_services_again(
    services: Services, prompts: Path
) -> None:
    with Batch(prompts, services.start(), "--patience", "1s") as batch:
        are_asked(services.urls)
        services.kill(0)
        services.kill(1)
        code, told = batch.ended()
        assert (code, told["error"]["type"] in AWAY) == (1, True), told
        assert not batch.output.exists()
    kept = read_status(get_journal_directory(batch.output)).counts.done
    assert kept < LINES
    with Batch(prompts, services.start()) as batch:
        code, told = batch.ended()
        assert (code, told["done"], told["failed"]) == (0, LINES, 0)
        assert told["resumed"] == kept
        assert batch.answered() == EVERY_LINE
