"""Settings for speed that a registration adds to a model's configuration.

The user's files are never changed. The engine gets a directory of this package instead, with a
changed copy of the configuration, and a link to the user's directory for everything else:

    genai_config.json
    files -> /home/ann/models/phi
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from foundry_api.engine.models.directory import (
    CONFIG,
    MAX_CONFIG_BYTES,
    read_configuration,
)
from foundry_api.engine.models.task import is_embedding_model
from foundry_api.storage.lock import FileLock
from foundry_api.storage.paths import PRIVATE_DIRECTORY
from foundry_api.storage.private_file import read_file, replace_file
from foundry_api.types.errors import ModelRegistrationFailed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from foundry_api.engine.models.directory import Configuration

__all__ = ["RELATIVE_PATH", "TunedDirectories", "choose_threads", "make_tuned_configuration"]

LOCK_TIMEOUT_S = 10.0

# Relative to the engine's own directory.
RELATIVE_PATH = Path("registered")
LINK = "files"

# A prompt is read in parts of this many tokens, which takes less time and memory than all at once.
CHUNK_TOKENS = 256
# Plain decoders, for which the parts give the same answer. Others need the complete prompt: phi3
# changes its position encoding with the length.
_CHUNKED_TYPES = frozenset(
    {
        "gemma",
        "granite",
        "internlm2",
        "llama",
        "mistral",
        "nemotron",
        "olmo",
        "phi",
        "qwen2",
        "qwen3",
        "smollm3",
    }
)

# By default, threads without work wait for it in a loop. That is faster on an idle machine, and
# several times slower if another program runs, because the loop takes its place from the work.
SPINNING = "session.intra_op.allow_spinning"

# Threads wait for each other at each of a model's operations. A small model loses more than it
# gains by that.
SMALL_MB = 32
# The limit of ONNX Runtime GenAI's own default.
MAX_THREADS = 16


def choose_threads(cpus: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Choose how many threads compute one model; None leaves it to the engine.

    `cpus` is where Linux describes the CPUs.
    """
    # The engine takes half of all CPUs, in the belief that two share a core. On a machine where
    # each has its own, as most virtual ones, half of the cores would be idle.
    if sys.platform != "linux":
        return None
    try:
        cores = {
            (cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text(encoding="utf-8")
            for cpu in os.sched_getaffinity(0)
        }
    except OSError:  # some containers hide them
        return None
    return min(len(cores), MAX_THREADS)


def make_tuned_configuration(
    config: Configuration, *, threads: int | None, overrides: bool, in_chunks: bool
) -> bytes | None:
    """Return a configuration for a directory with a link; None for a model that needs its own.

    Args:
        config: The user's configuration.
        threads: Threads that compute the model; None leaves it to the engine.
        overrides: Whether `threads` replaces the number in the user's configuration.
        in_chunks: Whether the engine may read a prompt in parts.
    """
    model, decoder = config.model, config.model.get("decoder")
    if not isinstance(decoder, dict) or not _is_plain(config):
        return None
    decoder = cast("dict[str, Any]", decoder)
    options = dict(decoder.get("session_options") or {})
    if threads is not None and (overrides or "intra_op_num_threads" not in options):
        options["intra_op_num_threads"] = threads
        options.setdefault(SPINNING, "0")
    search = dict(config.search)
    if in_chunks and model.get("type") in _CHUNKED_TYPES and "sliding_window" not in decoder:
        search.setdefault("chunk_size", CHUNK_TOKENS)
    graph = f"{LINK}/{decoder.get('filename', 'model.onnx')}"
    tuned = {
        "model": {
            **model,
            "tokenizer_dir": LINK,
            "decoder": {**decoder, "session_options": options, "filename": graph},
        },
        "search": search,
    }
    try:
        return json.dumps(tuned, ensure_ascii=False, allow_nan=False, indent=2).encode()
    except ValueError:  # a lone surrogate or 1e999, which the user's own file can have
        return None


def _is_plain(config: Configuration) -> bool:
    """Return whether a model is one decoder on the CPU, with no other files than the usual."""
    parts: list[Mapping[str, Any]] = [
        part for part in config.model.values() if isinstance(part, dict)
    ]
    decoder = cast("Mapping[str, Any]", config.model["decoder"])
    options: Any = decoder.get("session_options") or {}
    return (
        config.sections <= {"model", "search"}
        and len(parts) == 1
        and "pipeline" not in decoder
        and "tokenizer_dir" not in config.model
        and isinstance(options, dict)
        and not cast("dict[str, Any]", options).get("provider_options")
        # Such as a library, or a directory of weights, relative to the model's own directory.
        and not any("library" in name or "path" in name for name in cast("dict[str, Any]", options))
    )


class TunedDirectories:
    """The directories that the engine gets instead of the users' own.

    `threads` is the number that the user asked for. All hosts of a home directory share them. Each
    sets the number of threads of its own user when it starts.
    """

    def __init__(self, root: Path, threads: int | None) -> None:
        self._root = root
        self._threads = threads

    def lock(self) -> FileLock:
        """Return a lock to hold until a new directory is registered, and while removing others."""
        return FileLock(self._root.with_suffix(".lock"), timeout_s=LOCK_TIMEOUT_S)

    def make(self, directory: Path, *, size_mb: int) -> Path:
        """Return the directory to register for a user's; raises OSError if it cannot be made."""
        in_chunks = is_embedding_model(directory) is False
        return self._make(directory, size_mb=size_mb, in_chunks=in_chunks)

    def update(self, directory: Path, *, size_mb: int) -> None:
        """Apply this host's number of threads to a directory that is registered.

        A copy of the configuration or a link that is lost or damaged is made again.

        Raises OSError or ModelRegistrationFailed.
        """
        try:
            search = read_configuration(self._get_place(directory)).search
        except ModelRegistrationFailed:
            self.make(directory, size_mb=size_mb)
        else:
            # Whether the model allows it takes milliseconds to find out.
            self._make(directory, size_mb=size_mb, in_chunks="chunk_size" in search)

    def remove_unused(self, used: Collection[Path]) -> None:
        """Remove all but the directories that are registered; raises OSError."""
        if not self._root.is_dir():
            return
        # By name: two hosts may reach the same home by different paths, such as through a link.
        names = {path.name for path in used}
        for tuned in self._root.iterdir():
            if tuned.name in names:
                continue
            # Never a tree: the link leads to files of the user's.
            for name in (CONFIG, LINK):
                (tuned / name).unlink(missing_ok=True)
            tuned.rmdir()

    def _get_place(self, directory: Path) -> Path:
        # The same for the same directory, so that it can be made again at any time.
        return self._root / hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]

    def _make(self, directory: Path, *, size_mb: int, in_chunks: bool) -> Path:
        content = self._make_content(directory, size_mb=size_mb, in_chunks=in_chunks)
        if content is None:
            return directory
        tuned = self._get_place(directory)
        self._root.mkdir(exist_ok=True, mode=PRIVATE_DIRECTORY)
        tuned.mkdir(exist_ok=True, mode=PRIVATE_DIRECTORY)
        link = tuned / LINK
        if not (link.exists() and link.samefile(directory)):
            link.unlink(missing_ok=True)
            with contextlib.suppress(FileExistsError):  # another host was faster
                _link(link, directory)
        _write(tuned / CONFIG, content)
        return tuned

    def _make_content(self, directory: Path, *, size_mb: int, in_chunks: bool) -> bytes | None:
        default = choose_threads() if size_mb >= SMALL_MB else None
        return make_tuned_configuration(
            read_configuration(directory),
            threads=self._threads or default,
            overrides=self._threads is not None,
            in_chunks=in_chunks,
        )


def _link(link: Path, directory: Path) -> None:
    if sys.platform == "win32":
        import _winapi  # noqa: PLC0415 - Windows only

        # Unlike a symbolic link, a junction needs no privilege.
        _winapi.CreateJunction(str(directory), str(link))
    else:
        link.symlink_to(directory)


def _write(path: Path, content: bytes) -> None:
    """Write a file, unless it has that content."""
    with contextlib.suppress(FileNotFoundError):
        if read_file(path, MAX_CONFIG_BYTES) == content:
            return
    replace_file(path, content)
