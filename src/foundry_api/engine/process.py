"""Starting a host process and ending it, without asyncio, so that it can happen at any time."""

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

from foundry_api.engine.host import log as host_log
from foundry_api.engine.state import HostConfig, HostStartError, HostStartResult, ModelSource
from foundry_api.types.errors import ServiceStartFailed
from foundry_api.types.local_path import absolute_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foundry_api.engine.state import HostReady
    from foundry_api.storage.paths import Paths

__all__ = ["START_TIMEOUT_S", "HostOptions", "HostProcess", "get_demo_models"]

START_TIMEOUT_S = 30.0
GRACE_S = 1.0
MEMORY_SETTINGS = dict.fromkeys(
    ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(4 * 2**20)
)
"""Have glibc give the memory of long prompts and unloaded models back to the system, which by
itself it keeps; others ignore it. Measured on 2.2.1: processor time the same within the noise."""
MAX_ANSWER_BYTES = 64 * 1024
PATH_VARIABLES = frozenset({"PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR"})
"""What the host's Python and its engine read that may hold relative paths."""

_ROOT = str(Path(__file__).resolve().parents[2])
_BOOTSTRAP = (
    "import sys; root = sys.argv.pop(1); root in sys.path or sys.path.insert(0, root); "
    "from foundry_api.engine.host.main import main; main()"
)
"""With -P, so that no module of the caller's working directory gets in the way of ours.

The parent's own copy of this package is named, because it may have come from a path that only
the parent has, and parent and host must be of one version.
"""


def get_demo_models() -> tuple[ModelSource, ...]:
    """The model that ships with this package, as `demo`."""
    directory = Path(__file__).resolve().parent / "demo_model"
    if not (directory / "genai_config.json").is_file():
        return ()  # a build without the model's files still serves the user's own
    return (ModelSource(path=str(directory), alias="demo", license="MIT"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """What a host serves and where it keeps its things.

    Attributes:
        paths: Its directories.
        models: Model directories registered at its start.
        catalog_url: Another public catalog than Microsoft's; for tests.
        start_timeout_s: How long it may take to announce itself.
        environ: Its environment; None takes over this process's.
        python: The interpreter to run it with.
    """

    paths: Paths
    models: Sequence[ModelSource] = field(default_factory=get_demo_models)
    catalog_url: str | None = None
    start_timeout_s: float = START_TIMEOUT_S
    environ: dict[str, str] | None = None
    python: str = sys.executable


class HostProcess:
    """One host process, from its start to its end.

    It is stopped by `stop`, when this object is no longer referred to, when the interpreter exits,
    and when the interpreter is killed.
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
        """Start a host that lives as long as this process.

        Raises:
            ServiceStartFailed: No process could be started.
        """
        return cls(options, _make_config(options, owner_pid=os.getpid()), private=True)

    @classmethod
    def start_shared(cls, options: HostOptions, *, idle_timeout_s: float) -> HostProcess:
        """Start a host that outlives this process.

        Raises:
            ServiceStartFailed: No process could be started.
        """
        config = _make_config(
            options, state_path=str(options.paths.state_file), idle_timeout_s=idle_timeout_s
        )
        return cls(options, config, private=False)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """Its log."""
        return self._log_path

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._finalizer.alive and self._process.poll() is None

    def wait_ready(self) -> HostReady:
        """Wait until it serves. Safe from several threads; `kill` from another one ends the wait.

        Raises:
            ServiceStartFailed: It did not come up in time, or said why it cannot. It is gone then.
        """
        with self._reading:
            if self._ready is None:
                self._ready = self._read_ready()
            return self._ready

    def stop(self) -> None:
        """End it; returns when it is gone. Once more does nothing."""
        self._finalizer()

    def kill(self) -> None:
        """End it without grace: for one that never served."""
        if self._finalizer.alive:
            self._process.kill()
        self._finalizer()

    def detach(self) -> None:
        """Let a shared host go its own way; while this process lives, it leaves no zombie."""
        self._finalizer.detach()
        _close_pipes(self._process)
        threading.Thread(target=self._process.wait, name="reap-shared-host", daemon=True).start()

    def _read_ready(self) -> HostReady:
        stream = self._process.stdout
        late = threading.Event()
        timer = threading.Timer(self._timeout_s, self._abort_start, (late,))
        timer.daemon = True
        timer.start()
        try:
            line = stream.readline(MAX_ANSWER_BYTES) if stream and not stream.closed else b""
            result: HostStartResult = msgspec.json.decode(line, type=HostStartResult)
        except (msgspec.MsgspecError, OSError, ValueError) as error:
            raise self._make_start_error(late=late.is_set()) from error
        finally:
            timer.cancel()
        if isinstance(result, HostStartError):
            self.stop()
            raise ServiceStartFailed(result.message, log_path=str(self._log_path), hint=result.hint)
        return result

    def _abort_start(self, late: threading.Event) -> None:
        late.set()
        self._process.kill()  # the reader sees the end of the pipe

    def _make_start_error(self, *, late: bool) -> ServiceStartFailed:
        self.kill()
        reason = (
            f"did not announce itself within {self._timeout_s:g} s"
            if late
            else f"ended with status {self._process.returncode} before it served"
        )
        log_tail = host_log.read_tail(self._log_path)
        return ServiceStartFailed(
            f"the engine host {reason}" + (f"; its log ends: {log_tail}" if log_tail else ""),
            log_path=str(self._log_path),
        )


def _make_config(options: HostOptions, **kind: Any) -> HostConfig:
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
        **kind,
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
    try:
        return subprocess.Popen(  # noqa: S603 - our own program, no shell
            [options.python, "-P", "-c", _BOOTSTRAP, _ROOT, msgspec.json.encode(config).decode()],
            stdin=subprocess.PIPE if private else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**MEMORY_SETTINGS, **_make_environment(options.environ)},
            cwd=options.paths.data,  # so that a shared host does not hold the caller's directory
            start_new_session=True,  # a terminal's signals are for the parent; POSIX only
            creationflags=_get_creation_flags(),  # the same for Windows
        )
    except OSError as error:
        raise ServiceStartFailed(
            f"the engine host cannot be started: {error}", log_path=str(log_path)
        ) from error
    finally:
        os.close(log)
        host_log.prune(log_path.parent)


def _make_environment(overrides: Mapping[str, str] | None) -> dict[str, str]:
    """The host's environment. What is relative in it is so to our directory, not to the host's."""
    environ = dict(os.environ if overrides is None else overrides)
    for name in PATH_VARIABLES & {name for name, value in environ.items() if value}:
        entries = environ[name].split(os.pathsep) if name == "PYTHONPATH" else [environ[name]]
        environ[name] = os.pathsep.join(entry and os.path.abspath(entry) for entry in entries)  # noqa: PTH100 - text
    return environ


def _get_creation_flags() -> int:
    """Windows' flags for: not in the parent's console group, and no window."""
    if sys.platform == "win32":
        return subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    return 0


def _end_process(process: subprocess.Popen[bytes], creator: int) -> None:
    """Ask a host to leave, then make it. In a forked copy of the creator it is not ours to end."""
    if os.getpid() != creator:
        return
    if process.stdin:
        with contextlib.suppress(OSError):  # it is gone already
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
            with contextlib.suppress(OSError):  # a pipe whose other end is gone
                stream.close()
