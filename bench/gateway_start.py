"""Time from the start of `foundry-api serve` to its readiness and to a first token.

python3 dev.py bench gateway_start

The floors are a bare interpreter, and the engine host alone with the model loaded.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
from parts.results import save_figures

from foundry_api.engine.process import HostOptions, HostProcess
from foundry_api.storage.paths import Paths

if TYPE_CHECKING:
    from collections.abc import Generator

ROUNDS = 10
MODEL = "demo"
PYTHON, HOST, IMPORTS = "bare interpreter", "engine host with the model", "imports of the gateway"
LISTENING, READY, TOKEN = "gateway listens", "gateway is ready", "first token of the gateway"
POLL_S = 0.002
GATEWAY_CPU, HOST_CPU = "processor of the gateway", "processor of its engine host"


def measure_program(*arguments: str) -> float:
    """Return the seconds that Python takes to run something."""
    started_at = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True)
    return time.perf_counter() - started_at


def measure_host(home: Path) -> float:
    """Return the seconds to start an engine host and to load a model in it."""
    started_at = time.perf_counter()
    host = HostProcess.start_private(HostOptions(paths=Paths.from_home(home)))
    try:
        address = urlsplit(host.wait_ready().url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port)
        connection.request("GET", f"/catalogs/local/models/load/{MODEL}")
        connection.getresponse().read()
        return time.perf_counter() - started_at
    finally:
        host.stop()


@contextmanager
def start_gateway(home: Path) -> Generator[tuple[http.client.HTTPConnection, psutil.Process]]:
    """Run the gateway, and yield a connection to it and its process once it listens."""
    command = [sys.executable, "-m", "foundry_api", "serve", "-m", MODEL, "--port", "0"]
    environment = {**os.environ, "FOUNDRY_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, encoding="utf-8", env=environment
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            address = urlsplit(process.stdout.readline().split()[2])
            connection = http.client.HTTPConnection(address.hostname or "", address.port)
            yield connection, psutil.Process(process.pid)
            connection.close()
        finally:
            process.terminate()


def measure_gateway(home: Path) -> dict[str, float]:
    """Return the seconds from the start of a gateway to each of its steps."""
    times_s: dict[str, float] = {}
    started_at = time.perf_counter()
    with start_gateway(home) as (connection, process):
        times_s[LISTENING] = time.perf_counter() - started_at
        while get_status(connection) != 200:  # noqa: PLR2004
            time.sleep(POLL_S)
        times_s[READY] = time.perf_counter() - started_at
        times_s[GATEWAY_CPU] = get_cpu_s(process)
        times_s[HOST_CPU] = sum(get_cpu_s(child) for child in process.children())
        body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        connection.getresponse().readline()
        times_s[TOKEN] = time.perf_counter() - started_at
    return times_s


def get_cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def get_status(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/readyz")
    response = connection.getresponse()
    response.read()
    return response.status


def measure_round(home: Path) -> dict[str, float]:
    return {
        PYTHON: measure_program("-c", "pass"),
        HOST: measure_host(home),
        IMPORTS: measure_program("-c", "import foundry_api.cli.serve, foundry_api.gateway.gateway"),
        **measure_gateway(home),
    }


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as directory:
        home = Path(directory)
        first = measure_round(home)  # registers the model, and fills the file cache
        rounds = [measure_round(home) for _ in range(ROUNDS)]
    figures = {f"s, {READY}, the first time": first[READY]}
    for name in rounds[0]:
        figures[f"s, {name}"] = statistics.median(times_s[name] for times_s in rounds)
        figures[f"s, {name}, most"] = max(times_s[name] for times_s in rounds)
    for name in (LISTENING, READY, TOKEN):
        figures[f"{name} / {HOST}"] = statistics.median(
            times_s[name] / times_s[HOST] for times_s in rounds
        )
    save_figures("gateway_start", figures)


if __name__ == "__main__":
    main()
