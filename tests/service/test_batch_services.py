"""A batch over two real services, of which one or both are killed during the run."""

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
from support.cli_program import TIMEOUT_S, make_command, make_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINES = 160
ANSWER_TOKENS = 40  # enough that a service is killed in the middle of the batch


class Services:
    """Two engines with the demo model, each with its own home."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._hosts: list[EngineHost] = []
        self.urls: list[str] = []

    def start(self) -> list[str]:
        """Start two more engines, and return their URLs."""
        new = [self._make_host(len(self._hosts) + number) for number in range(2)]
        self._hosts += new
        for host in new:
            host.start()
        self.urls = [asyncio.run(host.wait_ready()).base_url for host in new]
        return self.urls

    def _make_host(self, number: int) -> EngineHost:
        return EngineHost(HostOptions(paths=Paths.from_home(self._directory / f"home-{number}")))

    def kill(self, number: int) -> None:
        """Kill an engine, as the kernel does when memory runs out."""
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
    """A `batch run` command in a process."""

    def __init__(self, prompts: Path, urls: list[str], *more: str) -> None:
        self.output = prompts.with_name("answers.jsonl")
        arguments = [
            "batch",
            "run",
            str(prompts),
            "-o",
            str(self.output),
            "--model",
            "demo",
            "--json",
        ]
        arguments += ["--set", f"max_tokens={ANSWER_TOKENS}", "--base-urls", ",".join(urls), *more]
        self._process = subprocess.Popen(
            make_command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=make_environment(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_for_exit(self) -> tuple[int, dict[str, Any]]:
        """Return the exit code and the JSON summary."""
        stdout, stderr = self._process.communicate(timeout=TIMEOUT_S)
        assert b"Traceback" not in stderr, stderr.decode()
        return self._process.returncode, json.loads(stdout)

    def read_ids(self) -> list[str]:
        """Return the ids in the output."""
        lines = self.output.read_text(encoding="utf-8").splitlines()
        return sorted(json.loads(line)["custom_id"] for line in lines)


# Which of the two ends the batch depends on whether the breaker was open at the last attempt.
UNREACHABLE = {"ServiceNotRunning", "CircuitOpen"}

EVERY_LINE = sorted(f"line-{number + 1}" for number in range(LINES))


def wait_for_requests(urls: list[str]) -> None:
    """Wait until each service has loaded a model, which the first request does."""
    for url in urls:
        with FoundryClient(url) as client:
            wait_until(lambda client=client: client.health_check().loaded_models)  # type: ignore[misc]


def test_two_services_share_the_lines(services: Services, prompts: Path) -> None:
    with Batch(prompts, services.start()) as batch:
        wait_for_requests(services.urls)
        code, summary = batch.wait_for_exit()
        assert (code, summary["done"], summary["failed"]) == (0, LINES, 0)
        assert batch.read_ids() == EVERY_LINE


def test_one_service_answers_the_rest_after_the_other_is_killed(
    services: Services, prompts: Path
) -> None:
    with Batch(prompts, services.start()) as batch:
        wait_for_requests(services.urls)
        services.kill(0)
        code, summary = batch.wait_for_exit()
        assert (code, summary["done"], summary["failed"]) == (0, LINES, 0)
        assert batch.read_ids() == EVERY_LINE


def test_batch_resumes_after_both_services_were_killed(services: Services, prompts: Path) -> None:
    with Batch(prompts, services.start(), "--patience", "1s") as batch:
        wait_for_requests(services.urls)
        services.kill(0)
        services.kill(1)
        code, summary = batch.wait_for_exit()
        assert (code, summary["error"]["type"] in UNREACHABLE) == (1, True), summary
        assert not batch.output.exists()
    stored = read_status(get_journal_directory(batch.output)).counts.done
    assert stored < LINES
    with Batch(prompts, services.start()) as batch:
        code, summary = batch.wait_for_exit()
        assert (code, summary["done"], summary["failed"]) == (0, LINES, 0)
        assert summary["resumed"] == stored
        assert batch.read_ids() == EVERY_LINE
