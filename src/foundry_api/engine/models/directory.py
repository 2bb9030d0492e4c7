"""Reads model directories: their configuration, their files, and a digest of them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, cast

from foundry_api.storage.private_file import read_file
from foundry_api.types.errors import ModelRegistrationFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = [
    "CONFIG",
    "MAX_CONFIG_BYTES",
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

# Files beside a model that no engine reads. A text file may be a vocabulary, so `.txt` counts.
_DOCUMENT_SUFFIXES = frozenset({".md", ".rst", ".pdf"})
_DOCUMENT_NAMES = frozenset({"readme", "license", "licence", "notice", "copying", "changelog"})

_GPU = frozenset({"cuda", "dml", "webgpu", "rocm", "nvtensorrtrtx", "migraphx"})
_NPU = frozenset({"qnn", "vitisai", "openvino"})


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A directory with every file that the engine needs.

    Attributes:
        directory: Its absolute path.
        digest: Changes when the files change that an engine may read.
        size_mb: Size of the files, rounded, at least 1.
        device: The device that the configuration selects.
        supports_tools: Whether the configuration names the tokens around a tool call.
    """

    directory: Path
    digest: str
    size_mb: int
    device: str
    supports_tools: bool

    @classmethod
    def read(cls, directory: Path) -> ModelFiles:
        """Read a directory; ModelRegistrationFailed names what is missing."""
        directory = directory.expanduser().absolute()
        model = read_configuration(directory).model
        missing = [
            name for name in (*list_graphs(model), TOKENIZER) if not is_inside(directory, name)
        ]
        if missing:
            raise _make_error(directory, f"it has no {' and no '.join(missing)}")
        size = sum(entry.stat().st_size for entry in directory.iterdir() if entry.is_file())
        return cls(
            directory=directory,
            digest=compute_digest(directory) or "",
            size_mb=max(1, round(size / 2**20)),
            device=_detect_device(model),
            # Without these tokens, 2.x refuses every request with tools.
            supports_tools=all(isinstance(model.get(name), int) for name in TOOL_MARKERS),
        )


def compute_digest(directory: Path) -> str | None:
    """Return a digest of a model directory; None if it no longer is one."""
    # It covers the bytes of the configuration, and the names and sizes of the files that an engine
    # may read. Hashing gigabytes of weights would take longer than the rest of a start. Weights
    # that changed but kept their size need no new registration: an engine reads them when it loads
    # the model.
    try:
        hasher = hashlib.sha256(read_file(directory / CONFIG, MAX_CONFIG_BYTES))
        for entry in sorted(directory.iterdir()):
            if _is_document(entry) or not entry.is_file():
                continue
            hasher.update(f"\0{entry.name}\0{entry.stat().st_size}".encode())
    except OSError:
        return None
    return hasher.hexdigest()[:32]


def _is_document(path: Path) -> bool:
    """Return whether a file is for people or other programs, such as a licence or .DS_Store."""
    # `LICENSE-MIT` and `README_zh.txt` are documents too, `notices.onnx` is not.
    stem = re.split(r"[^a-z]", path.name.lower(), maxsplit=1)[0]
    return (
        path.name.startswith(".")
        or path.suffix.lower() in _DOCUMENT_SUFFIXES
        or (stem in _DOCUMENT_NAMES and path.suffix.lower() in {"", ".txt"})
    )


@dataclass(frozen=True, slots=True)
class Configuration:
    """The sections of genai_config.json that are used here, and the names of all."""

    model: Mapping[str, Any]
    search: Mapping[str, Any]
    sections: frozenset[str] = frozenset({"model", "search"})


def read_configuration(directory: Path) -> Configuration:
    """Read genai_config.json; raises ModelRegistrationFailed if the engine cannot use it."""
    path = directory / CONFIG
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise _make_error(directory, f"its {CONFIG} is larger than {MAX_CONFIG_BYTES} bytes")
        config: Any = json.loads(read_file(path, MAX_CONFIG_BYTES).decode())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _make_error(directory, _explain_absence(directory)) from error
    except OSError as error:
        raise _make_error(directory, f"its {CONFIG} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise _make_error(directory, f"its {CONFIG} is not JSON ({error})") from error
    sections = cast("dict[str, Any]", config) if isinstance(config, dict) else {}
    model, search = (sections.get(name) for name in ("model", "search"))
    if not isinstance(model, dict):
        raise _make_error(directory, f"its {CONFIG} has no model section")
    if not isinstance(cast("dict[str, Any]", model).get("type", ""), str):
        raise _make_error(directory, f"its {CONFIG} has a model.type that is not a text")
    return Configuration(
        cast("dict[str, Any]", model),
        cast("dict[str, Any]", search) if isinstance(search, dict) else {},
        frozenset(sections),
    )


def _explain_absence(directory: Path) -> str:
    # Windows does not distinguish a file in place of the directory from one that is absent.
    if directory.is_dir():
        return f"it has no {CONFIG}"
    return "it is not a directory" if directory.exists() else "there is no such directory"


def list_graphs(model: Mapping[str, Any]) -> list[str]:
    """List the ONNX files of a model's parts, such as decoder, encoder and vision, in order."""
    parts = _filter_objects(model.values())
    stages: list[Mapping[str, Any]] = []
    for part in parts:
        # A part may be split into stages: `"pipeline": [{"name": {"filename": …}}]`.
        pipeline: Any = part.get("pipeline")
        if isinstance(pipeline, list):
            for entry in _filter_objects(pipeline):  # pyright: ignore[reportUnknownArgumentType] # JSON
                stages += _filter_objects(entry.values())
    names = [part.get("filename") for part in (*parts, *stages)]
    return list(dict.fromkeys(name for name in names if isinstance(name, str))) or ["model.onnx"]


def _filter_objects(values: Iterable[Any]) -> list[Mapping[str, Any]]:
    return [value for value in values if isinstance(value, dict)]


def _detect_device(model: Mapping[str, Any]) -> str:
    # Without an execution provider in the decoder's options, the model runs on the CPU.
    options = [part.get("session_options") for part in _filter_objects((model.get("decoder"),))]
    text = json.dumps(options).lower()
    if any(f'"{name}"' in text for name in _NPU):
        return "NPU"
    return "GPU" if any(f'"{name}"' in text for name in _GPU) else "CPU"


def is_inside(directory: Path, name: str) -> bool:
    """Return whether a directory has a file with a relative name that stays inside it."""
    # Symbolic links may lead anywhere, as they do in a Hugging Face cache.
    relative = PurePath(name)
    inside = not relative.is_absolute() and ".." not in relative.parts
    return inside and (directory / relative).is_file()


def _make_error(directory: Path, reason: str) -> ModelRegistrationFailed:
    return ModelRegistrationFailed(f"{directory} is not a model directory: {reason}")
