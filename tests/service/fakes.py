"""Fakes for discovery: HTTP servers and the `foundry` command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
FREE_PORTS = range(20_000 + 1000 * (_WORKER % 12), 21_000 + 1000 * (_WORKER % 12))
"""Ports that no system assigns automatically (Linux starts at 32,768) and no other worker uses."""


def free_port() -> int:
    """Return a port on which nothing listens and which the system assigns to no other process."""
    while True:
        port = secrets.choice(FREE_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.asynccontextmanager
async def run_fake_server(
    routes: Mapping[str, object], delay_s: float = 0.0, *, missing: int = 404
) -> AsyncIterator[str]:
    """Serve `routes` as JSON and other paths with the status `missing`; yield the URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            await asyncio.sleep(delay_s)
            found = path in routes
            body = json.dumps(routes.get(path)).encode() if found else b"no such page"
            head = f"HTTP/1.1 {200 if found else missing} X\r\nContent-Length: {len(body)}\r\n"
            writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
            await writer.drain()
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def run_silent_server() -> Iterator[str]:
    """Run a server that accepts connections and never answers; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def make_service_routes(generation: str, pid: int = 4711) -> dict[str, object]:
    """Return the routes by which a generation is detected, for `run_fake_server`."""
    sdk_2 = {"endpoints": [], "modelCachePath": "/cache", "pid": pid}
    listed = {"data": [], "object": "list"}
    routes: dict[str, dict[str, object]] = {
        "sdk-2.1": {"/status": sdk_2, "/catalogs/local/v1/models": listed},
        "sdk-2.0": {"/status": sdk_2},
    }
    return routes[generation]


def install_fake_foundry(
    directory: Path, *, server: str = "", service: str = "", version: str = ""
) -> None:
    """Install a fake `foundry` command, which prints what the real one prints.

    Args:
        directory: A directory on PATH.
        server: Python code that runs for `foundry server status -o json`.
        service: Python code that runs for `foundry service status`.
        version: What `foundry --version` prints.
    """
    install_foundry_program(
        directory,
        "import sys, time\n"
        "sys.stdout.reconfigure(encoding='utf-8')\n"
        f"if sys.argv[1:] == ['server', 'status', '-o', 'json']:\n    {server or 'sys.exit(1)'}\n"
        f"elif sys.argv[1:] == ['service', 'status']:\n    {service or 'sys.exit(1)'}\n"
        f"elif sys.argv[1:] == ['--version'] and {bool(version)}:\n    print({version!r})\n"
        "else:\n    sys.exit(2)\n",
    )


# A program in place of `foundry.exe` has a shell between it and its caller. It ends with that.
END_WITH_SHELL = """
import ctypes, os, threading

SYNCHRONIZE, FOREVER, ENDED = 0x100000, -1, 0
kernel = ctypes.windll.kernel32

def end_with(shell):
    if kernel.WaitForSingleObject(shell, FOREVER) == ENDED:
        os._exit(1)

shell = kernel.OpenProcess(SYNCHRONIZE, False, os.getppid())
threading.Thread(target=end_with, args=(shell,), daemon=True).start()
"""


def install_foundry_program(directory: Path, source: str) -> None:
    """Install a Python program as the `foundry` command of a directory."""
    directory.mkdir(exist_ok=True)
    program = directory / "foundry_program.py"
    if os.name != "posix":
        source = END_WITH_SHELL + source
    program.write_text(source, encoding="utf-8")
    if os.name == "posix":
        script = directory / "foundry"
        script.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -S -E "{program}" "$@"\n', encoding="utf-8"
        )
        script.chmod(0o755)
    else:
        # Not the launcher of the virtual environment, which would be a process more.
        interpreter = getattr(sys, "_base_executable", sys.executable)
        text = f'@"{interpreter}" -S -E "%~dp0{program.name}" %*\r\n'
        # cmd reads it in the code page of consoles.
        (directory / "foundry.cmd").write_text(text, encoding="oem")
