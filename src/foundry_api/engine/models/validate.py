"""Checks whether a model directory can be served, and under which names."""

# The engine registers every directory with a readable configuration, and fails only when it loads
# the model, with an internal message. These checks find the most common causes before that.

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, cast

from foundry_api.engine.models.directory import (
    CONFIG,
    TOKENIZER,
    ModelFiles,
    is_inside,
    list_graphs,
    read_configuration,
)
from foundry_api.engine.models.onnx_file import InvalidOnnx, read_external_data
from foundry_api.engine.models.task import (
    EMBEDDINGS,
    MAX_TOKENIZER_BYTES,
    SPEECH,
    TEMPLATE,
    TOKENIZER_CONFIG,
    detect_task,
    has_template,
)
from foundry_api.types.errors import InvalidRequest, ModelRegistrationFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["check_alias", "find_problems", "validate"]

# The engine accepts only such names (2.2.1), and serves `x-generic-cpu` under the alias `x`.
_ALIAS = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*")
# An imported model has a directory with this name, and next to it one with a longer name.
MAX_ALIAS_CHARACTERS = 128
_DEVICE_SUFFIX = re.compile(r"-generic-(?:cpu|gpu|npu)$", re.IGNORECASE)

# 2.2.1 fails to load other tokenizers with an internal message, or crashes: it reads them as these.
_TOKENIZER_TYPES = ("BPE", "Unigram")

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def validate(directory: Path) -> ModelFiles:
    """Read a model directory; ModelRegistrationFailed lists everything that is wrong with it."""
    problems = find_problems(directory)
    if problems:
        hint = (
            f"Fix it, then check it again with `foundry-api models register {directory} --check`."
        )
        if _is_importable(directory):
            hint = f"Convert it first: `foundry-api models import {directory} --alias NAME`."
        raise ModelRegistrationFailed(
            f"{directory} cannot be served as a model: {'; '.join(problems)}", hint=hint
        )
    return ModelFiles.read(directory)


def _is_importable(path: Path) -> bool:
    """Return whether a path looks like a GGUF file or a model of Hugging Face."""
    if path.suffix.lower() == ".gguf":
        return path.is_file()
    return is_inside(path, "config.json") and not is_inside(path, CONFIG)


def check_alias(alias: str) -> None:
    """Raise InvalidRequest for an alias that the engine does not accept or serve."""
    if not _ALIAS.fullmatch(alias):
        raise InvalidRequest(
            f"{alias!r} cannot be the alias of a model",
            field="alias",
            hint="Use letters, digits, `.`, `_` and `-`; the first is a letter or a digit.",
        )
    if len(alias) > MAX_ALIAS_CHARACTERS:
        raise InvalidRequest(
            f"an alias has {len(alias)} characters, more than {MAX_ALIAS_CHARACTERS}",
            field="alias",
            hint="Choose a shorter one.",
        )
    name = _DEVICE_SUFFIX.sub("", alias)
    if name != alias:
        raise InvalidRequest(
            f"{alias} cannot be an alias: the engine reads its end as a device and serves {name}",
            field="alias",
            hint="Leave out the device.",
        )


def find_problems(directory: Path) -> tuple[str, ...]:
    """List the problems that keep the engine from serving a directory, without full stops."""
    directory = directory.expanduser().absolute()
    try:
        config = read_configuration(directory)
    except ModelRegistrationFailed as error:
        return (error.message.partition(": ")[2],)
    problems: list[str] = []
    lengths = (config.model.get("context_length"), config.search.get("max_length"))
    if not any(isinstance(length, int) and length > 0 for length in lengths):
        problems.append(f"its {CONFIG} has no model.context_length above 0")
    for graph in list_graphs(config.model):
        problems += _check_graph(directory, graph)
    tokenizer = _read_json(directory, TOKENIZER)
    if isinstance(tokenizer, str):
        problems.append(tokenizer)
    elif not isinstance(model := tokenizer.get("model"), dict):
        problems.append(f"its {TOKENIZER} has no model section")
    elif (kind := cast("dict[str, Any]", model).get("type", "BPE")) not in _TOKENIZER_TYPES:
        readable = " and ".join(_TOKENIZER_TYPES)
        problems.append(f"its {TOKENIZER} is of type {kind}; the engine reads {readable}")
    tokenizer_config = _read_json(directory, TOKENIZER_CONFIG)
    if isinstance(tokenizer_config, str):
        problems.append(tokenizer_config)
    # A model for chat cannot be served without a template.
    elif detect_task(directory) not in {SPEECH, EMBEDDINGS} and not has_template(directory):
        problems.append(f"it has no chat template, neither in {TOKENIZER_CONFIG} nor as {TEMPLATE}")
    return tuple(problems)


def _check_graph(directory: Path, name: str) -> Iterator[str]:
    path = directory / name
    if not is_inside(directory, name):
        yield f"it has no {name}"
        return
    try:
        needed_sizes = read_external_data(path)
    except InvalidOnnx as error:
        reason = str(error)
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                reason = "it is a pointer of Git LFS; get the file itself with `git lfs pull`"
        yield f"its {name} is not an ONNX graph: {reason}"
        return
    except OSError as error:
        yield f"its {name} cannot be read ({error.strerror})"
        return
    # The weights are in files next to the graph.
    for weights, needed_size in needed_sizes.items():
        if not is_inside(path.parent, weights):
            yield f"it has no {weights}, where the weights of {name} are"
        elif (actual_size := (path.parent / weights).stat().st_size) < needed_size:
            yield (
                f"its {weights} has {actual_size} bytes, but {name} needs {needed_size}: the copy "
                "may be incomplete"
            )


def _read_json(directory: Path, name: str) -> Mapping[str, Any] | str:
    """Return the JSON object in a file, or what is wrong with the file."""
    if not is_inside(directory, name):
        return f"it has no {name}"
    path = directory / name
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            return f"its {path.name} is larger than {MAX_TOKENIZER_BYTES} bytes"
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return f"its {path.name} cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        return f"its {path.name} is not JSON ({error})"
    if not isinstance(content, dict):
        return f"its {path.name} is not a JSON object"
    return cast("dict[str, Any]", content)
