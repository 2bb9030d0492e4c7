"""Model directories: whether the engine can serve one, and whether it is still the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, cast

from foundry_api.storage.private_file import read_file
from foundry_api.types.errors import ModelRegistrationFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = [
    "CONFIG",
    "TOKENIZER",
    "Configuration",
    "ModelFiles",
    "compute_digest",
    "is_inside",
    "list_graphs",
    "read_configuration",
]

CONFIG = "genai_config.json"
TOKENIZER = "tokenizer.json"
MAX_CONFIG_BYTES = 2**20
TOOL_MARKERS = ("bot_token_id", "eot_token_id")

_GPU = frozenset({"cuda", "dml", "webgpu", "rocm", "nvtensorrtrtx", "migraphx"})
_NPU = frozenset({"qnn", "vitisai", "openvino"})


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A directory that holds what the engine needs.

    Attributes:
        directory: Where the files are, absolute.
        digest: Changes when the files do.
        size_mb: Their size, rounded, at least 1.
        device: What the configuration runs it on.
        supports_tools: Whether the configuration names the tokens around a tool call, without which
            2.x refuses every request with tools.
    """

    directory: Path
    digest: str
    size_mb: int
    device: str
    supports_tools: bool

    @classmethod
    def read(cls, directory: Path) -> ModelFiles:
        """Look at a directory.

        Raises:
            ModelRegistrationFailed: It lacks something; the message says what.
        """
        directory = directory.expanduser().absolute()
        model = read_configuration(directory).model
        missing = [
            name for name in (*list_graphs(model), TOKENIZER) if not is_inside(directory, name)
        ]
        if missing:
            raise _make_error(directory, f"it has no {' and no '.join(missing)}")
        size = sum(entry.stat().st_size for entry in directory.iterdir() if entry.is_file())
        size_mb = max(1, round(size / 2**20))
        calls_tools = all(isinstance(model.get(name), int) for name in TOOL_MARKERS)
        return cls(
            directory, compute_digest(directory) or "", size_mb, _detect_device(model), calls_tools
        )


def compute_digest(directory: Path) -> str | None:
    """A fingerprint of a model directory; None if it is no longer one.

    The configuration's bytes and the files' names and sizes: hashing gigabytes of weights would
    take longer than everything else a start does. An engine reads the weights when it loads them,
    so weights that changed under the same size need no new registration.
    """
    try:
        hasher = hashlib.sha256(read_file(directory / CONFIG, MAX_CONFIG_BYTES))
        files = sorted(entry for entry in directory.iterdir() if entry.is_file())
        for entry in files:
            hasher.update(f"\0{entry.name}\0{entry.stat().st_size}".encode())
    except OSError:
        return None
    return hasher.hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Configuration:
    """The sections of genai_config.json that matter here."""

    model: Mapping[str, Any]
    search: Mapping[str, Any]


def read_configuration(directory: Path) -> Configuration:
    """What genai_config.json says.

    Raises:
        ModelRegistrationFailed: It is not there, or not what the engine takes.
    """
    path = directory / CONFIG
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise _make_error(directory, f"its {CONFIG} is larger than {MAX_CONFIG_BYTES} bytes")
        config: Any = json.loads(read_file(path, MAX_CONFIG_BYTES).decode())
    except FileNotFoundError as error:
        there = f"it has no {CONFIG}" if directory.is_dir() else "there is no such directory"
        raise _make_error(directory, there) from error
    except OSError as error:
        raise _make_error(directory, f"its {CONFIG} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise _make_error(directory, f"its {CONFIG} is not JSON ({error})") from error
    model, search = (_get_section(config, name) for name in ("model", "search"))
    if model is None:
        raise _make_error(directory, f"its {CONFIG} has no model section")
    return Configuration(model, search or {})


def _get_section(config: Any, name: str) -> Mapping[str, Any] | None:
    section: Any = cast("dict[str, Any]", config).get(name) if isinstance(config, dict) else None
    return cast("dict[str, Any]", section) if isinstance(section, dict) else None


def list_graphs(model: Mapping[str, Any]) -> list[str]:
    """The ONNX files that a model's parts name: decoder, encoder, vision…, in their order."""
    parts = _filter_objects(model.values())
    stages = [stage for part in parts for stage in _iter_stages(part)]
    named = [part.get("filename") for part in (*parts, *stages)]
    return list(dict.fromkeys(name for name in named if isinstance(name, str))) or ["model.onnx"]


def _iter_stages(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A part that is split in stages lists them as `"pipeline": [{"name": {"filename": …}}]`."""
    pipeline: Any = part.get("pipeline")
    if not isinstance(pipeline, list):
        return
    for entry in _filter_objects(pipeline):  # pyright: ignore[reportUnknownArgumentType] # JSON
        yield from _filter_objects(entry.values())


def _filter_objects(values: Iterable[Any]) -> list[Mapping[str, Any]]:
    return [value for value in values if isinstance(value, dict)]


def _detect_device(model: Mapping[str, Any]) -> str:
    """What the decoder's execution providers run on; none listed means the CPU."""
    options = [part.get("session_options") for part in _filter_objects((model.get("decoder"),))]
    text = json.dumps(options).lower()
    if any(f'"{name}"' in text for name in _NPU):
        return "NPU"
    return "GPU" if any(f'"{name}"' in text for name in _GPU) else "CPU"


def is_inside(directory: Path, name: str) -> bool:
    """Whether a file is there. Links may lead anywhere, as in a Hugging Face cache; names not."""
    relative = PurePath(name)
    inside = not relative.is_absolute() and ".." not in relative.parts
    return inside and (directory / relative).is_file()


def _make_error(directory: Path, why: str) -> ModelRegistrationFailed:
    return ModelRegistrationFailed(f"{directory} is not a model directory: {why}")
