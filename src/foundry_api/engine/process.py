"""Starts and stops the process of an engine host.

It uses no asyncio, so that a host can be stopped by the garbage collector and at exit.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.engine.handshake import HostConfig, HostStartError, HostStartResult, ModelSource
from foundry_api.engine.host import log as host_log
from foundry_api.storage.process import BACKGROUND_FLAGS, make_module_command
from foundry_api.types.errors import ConfigurationError, ServiceStartFailed
from foundry_api.types.local_path import absolute_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foundry_api.engine.handshake import HostReady
    from foundry_api.storage.paths import Paths

__all__ = [
    "START_TIMEOUT_S",
    "HostOptions",
    "HostProcess",
    "check_directory_length",
    "get_demo_models",
    "resolve_launcher",
]

START_TIMEOUT_S = 30.0
GRACE_S = 1.0

# With these, glibc returns the memory of long prompts and unloaded models to the system, which it
# keeps by default. Other libraries ignore them. Measured on 2.2.1: no difference in CPU time.
MEMORY_SETTINGS = dict.fromkeys(
    ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(4 * 2**20)
)
# ONNX Runtime and its GenAI library report the machine to Microsoft, each by itself, and have no
# other switch than this. Foundry Local's own is in the configuration of the host.
TELEMETRY_SETTINGS = {"ORT_DISABLE_TELEMETRY": "1"}
MAX_READY_BYTES = 64 * 1024

# Variables that the host's Python and its engine read and that may hold relative paths.
PATH_VARIABLES = frozenset({"PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR"})

# Windows starts no program in a longer directory, not even where longer paths are allowed
# (`lpCurrentDirectory` of CreateProcess: MAX_PATH with a separator and a zero at the end).
MAX_DIRECTORY_OF_WINDOWS = 258


def get_demo_models() -> tuple[ModelSource, ...]:
    """Return the model that is part of this package, as `demo`."""
    directory = Path(__file__).resolve().parent / "demo_model"
    if not (directory / "genai_config.json").is_file():
        return ()  # a build without the model's files still serves the user's own
    return (ModelSource(path=str(directory), alias="demo", license="MIT"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """Options of an engine host.

    Attributes:
        paths: Its directories.
        models: Model directories to register when it starts.
        catalog_url: Replaces Microsoft's public catalog, for tests.
        threads: Threads that compute one model; None chooses a number from the CPUs.
        port: Port of the REST service; 0 for any that is free.
        start_timeout_s: Seconds until it must be ready.
        environ: Its environment; None for that of this process.
        python: The Python interpreter that runs it.
    """

    paths: Paths
    models: Sequence[ModelSource] = field(default_factory=get_demo_models)
    catalog_url: str | None = None
    threads: int | None = None
    port: int = 0
    start_timeout_s: float = START_TIMEOUT_S
    environ: dict[str, str] | None = None
    python: str = sys.executable


def resolve_launcher(
    python: str,
    *,
    platform: str = sys.platform,
    executable: str = sys.executable,
    base: str | None = getattr(sys, "_base_executable", None),
) -> tuple[str, dict[str, str]]:
    """Return the interpreter to start for `python`, and what to add to its environment.

    On Windows, the python.exe of a virtual environment only starts the real interpreter as a child
    and waits for it, so its process has another id than the host. As in `multiprocessing`, the real
    one is started instead; a variable names the environment it belongs to.
    """
    if platform != "win32" or python != executable or base is None or base == python:
        return python, {}
    return base, {"__PYVENV_LAUNCHER__": python}


def check_directory_length(directory: Path, *, platform: str = sys.platform) -> None:
    """Raise ConfigurationError if an engine cannot be started in a directory."""
    if platform == "win32" and len(str(directory)) > MAX_DIRECTORY_OF_WINDOWS:
        raise ConfigurationError(
            f"{directory} is too long: Windows starts no program in a directory of more than "
            f"{MAX_DIRECTORY_OF_WINDOWS} characters",
            hint="Set FOUNDRY_HOME to a shorter path.",
        )


class HostProcess:
    """The process of a host.

    It ends with `stop`, when this object is garbage collected, and when the interpreter exits or is
    killed.
    """

    def __init__(self, options: HostOptions, config: HostConfig, *, private: bool) -> None:
        self._log_path = Path(config.log_path)
        self._timeout_s = options.start_timeout_s
        self._ready: HostReady | None = None
        self._reading = threading.Lock()
        self._process = _popen(options, config, private=private)
        self._finalizer = weakref.finalize(self, _end_process, self._process, os.getpid())

    @classmethod
    def start_private(cls, options: HostOptions) -> HostProcess:
        """Start a host that lives no longer than this process."""
        return cls(options, _make_config(options, owner_pid=os.getpid()), private=True)

    @classmethod
    def start_shared(cls, options: HostOptions, *, idle_timeout_s: float) -> HostProcess:
        """Start a host that outlives this process."""
        config = _make_config(
            options, state_path=str(options.paths.state_file), idle_timeout_s=idle_timeout_s
        )
        return cls(options, config, private=False)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log_path(self) -> Path:
        return self._log_path

    @property
    def is_alive(self) -> bool:
        return self._finalizer.alive and self._process.poll() is None

    def wait_ready(self) -> HostReady:
        """Wait until the host serves; a host that does not is stopped, with ServiceStartFailed."""
        # Several threads may wait; `kill` from another thread ends the wait.
        with self._reading:
            if self._ready is None:
                self._ready = self._read_ready()
            return self._ready

    def stop(self) -> None:
        """Stop the process and wait until it is gone. A second call does nothing."""
        self._finalizer()

    def kill(self) -> None:
        """Kill a process that has never served."""
        if self._finalizer.alive:
            self._process.kill()
        self._finalizer()

    def detach(self) -> None:
        """Keep a shared host running when this process exits."""
        self._finalizer.detach()
        _close_pipes(self._process)
        # Reaps the host if it exits before this process, so that it does not remain as a zombie.
        threading.Thread(target=self._process.wait, name="reap-shared-host", daemon=True).start()

    def _read_ready(self) -> HostReady:
        stream = self._process.stdout
        timed_out = threading.Event()

        def abort() -> None:
            timed_out.set()
            self._process.kill()  # closes the pipe, which ends readline()

        timer = threading.Timer(self._timeout_s, abort)
        timer.daemon = True
        timer.start()
        try:
            line = stream.readline(MAX_READY_BYTES) if stream and not stream.closed else b""
            result: HostStartResult = msgspec.json.decode(line, type=HostStartResult)
        except (msgspec.MsgspecError, OSError, ValueError) as error:
            # Read before `kill`: the timer may fire while the host is killed.
            was_too_slow = timed_out.is_set()
            self.kill()
            reason = (
                f"was not ready within {self._timeout_s:g} s"
                if was_too_slow
                else f"ended with status {self._process.returncode} before it served"
            )
            log_tail = host_log.read_tail(self._log_path)
            raise ServiceStartFailed(
                f"the engine host {reason}" + (f"; its log ends: {log_tail}" if log_tail else ""),
                log_path=str(self._log_path),
            ) from error
        finally:
            timer.cancel()
        if isinstance(result, HostStartError):
            self.stop()
            raise ServiceStartFailed(result.message, log_path=str(self._log_path), hint=result.hint)
        return result


def _make_config(options: HostOptions, **private_or_shared: Any) -> HostConfig:
    check_directory_length(options.paths.data)
    paths = options.paths.create()
    return HostConfig(
        data_dir=str(paths.data),
        logs_dir=str(paths.logs),
        log_path=str(host_log.make_path(paths.logs)),
        models=tuple(
            msgspec.structs.replace(source, path=str(absolute_path(source.path)))
            for source in options.models
        ),
        catalog_url=options.catalog_url,
        threads=options.threads,
        port=options.port,
        **private_or_shared,
    )


def _popen(options: HostOptions, config: HostConfig, *, private: bool) -> subprocess.Popen[bytes]:
    if not options.python:
        raise ServiceStartFailed(
            "this Python does not know its own executable",
            hint="Start a service with `foundry-api up` and use that.",
        )
    log_path = Path(config.log_path)
    try:
        log = host_log.create(log_path)
    except OSError as error:
        raise ServiceStartFailed(f"{log_path} cannot be written: {error.strerror}") from error
    python, launcher_settings = resolve_launcher(options.python)
    environ = {**_make_environment(options.environ), **launcher_settings}
    try:
        return subprocess.Popen(  # noqa: S603 - our own program, no shell
            [
                *make_module_command("foundry_api.engine.host.main", python),
                msgspec.json.encode(config).decode(),
            ],
            stdin=subprocess.PIPE if private else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**MEMORY_SETTINGS, **TELEMETRY_SETTINGS, **environ},
            cwd=options.paths.data,  # a shared host must not keep the caller's directory in use
            start_new_session=True,  # a terminal's signals are for the parent; POSIX only
            creationflags=BACKGROUND_FLAGS,  # the same for Windows
        )
    except OSError as error:
        raise ServiceStartFailed(
            f"the engine host cannot be started: {error}", log_path=str(log_path)
        ) from error
    finally:
        os.close(log)
        host_log.prune(log_path.parent)


def _make_environment(overrides: Mapping[str, str] | None) -> dict[str, str]:
    environ = dict(os.environ if overrides is None else overrides)
    # A relative path in the environment starts from this process's directory, not from the host's.
    for name in PATH_VARIABLES & {name for name, value in environ.items() if value}:
        entries = environ[name].split(os.pathsep) if name == "PYTHONPATH" else [environ[name]]
        environ[name] = os.pathsep.join(entry and os.path.abspath(entry) for entry in entries)  # noqa: PTH100 - text
    return environ


def _end_process(process: subprocess.Popen[bytes], creator_pid: int) -> None:
    """Let a host exit, else terminate it, else kill it."""
    if os.getpid() != creator_pid:
        return  # a fork inherits this finalizer, but must not stop its parent's host
    if process.stdin:  # a private host exits when its standard input ends
        with contextlib.suppress(OSError):  # the host is gone already
            process.stdin.close()
    else:
        process.terminate()
    try:
        for force in (process.terminate, process.kill):
            if _has_exited(process):
                break
            force()
        process.wait()
    finally:
        _close_pipes(process)


def _has_exited(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream:
            with contextlib.suppress(OSError):  # the other end is gone
                stream.close()
