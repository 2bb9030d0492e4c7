"""Runs commands of `foundry-api`, each in a process that is forked from one that has imported it.

Python and the imports of a command take a quarter of a second, which hundreds of tests would spend.
The forked process has its own arguments, environment, directory and standard streams, and ends as
any Python program does. How the command line starts and what it imports is tested without this:
`tests/unit/cli/test_start.py`, and all tests that start a program with `make_command`.

Linux only: macOS and Windows cannot fork a program that has started.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}
IMPORTED = (
    *(
        f"foundry_api.cli.{name}"
        for name in (
            *("batch", "cache", "chat", "config", "doctor", "down", "downloads", "embed", "keys"),
            *("logs", "models", "ps", "request", "root", "single_prompt", "status", "up"),
        )
    ),
    *("foundry_api.client.client", "foundry_api.structured.output_spec", "jsonschema"),
)


class CommandServer:
    """The client of a server, which it starts."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair()
        self._lock = threading.Lock()
        with theirs:
            # It ends when this process has closed the socket, however that ends.
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environ,
                pass_fds=[theirs.fileno()],
            )

    def close(self) -> None:
        self._socket.close()
        self._process.wait()

    def run(
        self, arguments: tuple[str, ...], stdin: bytes, environ: Mapping[str, str], timeout_s: float
    ) -> tuple[int, bytes, bytes]:
        """Run a command to its end; return its exit code and its output."""
        (in_reader, in_writer), (out_reader, out_writer), (err_reader, err_writer) = (
            os.pipe() for _ in range(3)
        )
        ours, theirs = socket.socketpair()
        request = json.dumps([arguments, str(Path.cwd()), dict(environ)]).encode()
        with ours, ThreadPoolExecutor(3) as pool:
            ours.settimeout(timeout_s)
            with theirs:
                files = [in_reader, out_writer, err_writer, theirs.fileno()]
                with self._lock:
                    data = len(request).to_bytes(4, "big") + request
                    sent = socket.send_fds(self._socket, [data], files)
                    self._socket.sendall(data[sent:])
            for file in files[:3]:
                os.close(file)
            pool.submit(_write, in_writer, stdin)
            output, errors = pool.submit(_read, out_reader), pool.submit(_read, err_reader)
            pid = int.from_bytes(ours.recv(4), "big")
            try:
                code = int.from_bytes(ours.recv(4), "big", signed=True)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise
            return code, output.result(), errors.result()


def _write(file: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), open(file, "wb") as pipe:
        pipe.write(data)


def _read(file: int) -> bytes:
    with open(file, "rb") as pipe:
        return pipe.read()


class Server:
    """Forks a process for each request, and answers with its id and later with its exit code."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._replies: dict[int, socket.socket] = {}
        self._ends, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)  # noqa: FBT003

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        for one in (self._ends, self._wakeup, *self._replies.values()):
            one.close()

    def serve(self) -> tuple[list[str], dict[str, str]]:
        """Serve until the client is gone; returns a request in the process that has to run it."""
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wakeup.fileno())
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_READ)
            selector.register(self._ends, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._ends in ready:
                    self._ends.recv(4096)
                    self._report_ended()
                if self._requests in ready and (request := self._fork()):
                    return request

    def _report_ended(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with self._replies.pop(ended[0]) as reply:
                    code = os.waitstatus_to_exitcode(ended[1])
                    with contextlib.suppress(BrokenPipeError):  # the client did not wait
                        reply.sendall(code.to_bytes(4, "big", signed=True))

    def _fork(self) -> tuple[list[str], dict[str, str]] | None:
        data, files = self._receive()
        reply = socket.socket(fileno=files.pop())
        pid = os.fork()
        if pid:
            for file in files:
                os.close(file)
            self._replies[pid] = reply
            reply.sendall(pid.to_bytes(4, "big"))
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        reply.close()
        for number, (name, mode) in enumerate(STREAMS.items()):
            os.dup2(files[number], number)
            os.close(files[number])
            stream = getattr(sys, name)
            # Another object, as one remembers whether its file is a pipe.
            stream = open(  # noqa: SIM115 - open until the process ends
                number,
                mode,
                1 if name == "stderr" else -1,
                encoding=stream.encoding,
                errors=stream.errors,
                closefd=False,
            )
            setattr(sys, name, stream)
        arguments, directory, environ = json.loads(data)
        os.chdir(directory)
        sys.path.insert(0, directory)  # as with `python -m`
        return arguments, environ

    def _receive(self) -> tuple[bytes, list[int]]:
        head, files, _, _ = socket.recv_fds(self._requests, 4, len(STREAMS) + 1)
        if not head:
            sys.exit()
        size = int.from_bytes(head, "big")
        data = b""
        while len(data) < size:
            data += self._requests.recv(size - len(data))
        return data, files


def main() -> NoReturn:
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # else the first collection of each process would copy all of its memory
    with socket.socket(fileno=int(sys.argv[1])) as requests, Server(requests) as server:
        arguments, environ = server.serve()
    os.environ.clear()
    os.environ.update(environ)
    sys.argv[1:] = arguments
    runpy.run_module("foundry_api", run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    main()
