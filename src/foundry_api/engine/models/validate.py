"""Whether a model directory can be served: all that is wrong with it at once.

The engine registers a directory whose configuration it can read, and fails when it loads it, with
a message from deep inside. What makes it fail most often is looked for here, before that.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from foundry_api.engine.models.directory import (
    CONFIG,
    TOKENIZER,
    Configuration,
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
from foundry_api.types.errors import ModelRegistrationFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["find_problems", "validate"]

LFS = b"version https://git-lfs.github.com/spec/"


def validate(directory: Path) -> ModelFiles:
    """A directory that can be served.

    Raises:
        ModelRegistrationFailed: It cannot; the message tells everything that was found.
    """
    problems = find_problems(directory)
    if problems:
        raise ModelRegistrationFailed(
            f"{directory} cannot be served as a model: {'; '.join(problems)}",
            hint="Fix it, then check it again with "
            f"`foundry-api models register {directory} --check`.",
        )
    return ModelFiles.read(directory)


def find_problems(directory: Path) -> tuple[str, ...]:
    """What keeps the engine from serving a directory, each in a sentence without a full stop."""
    directory = directory.expanduser().absolute()
    try:
        config = read_configuration(directory)
    except ModelRegistrationFailed as error:
        return (error.message.partition(": ")[2],)
    return (
        *_check_context(config),
        *(
            problem
            for graph in list_graphs(config.model)
            for problem in _check_graph(directory, graph)
        ),
        *_check_tokenizer(directory),
        *_check_template(directory, needed=detect_task(directory) not in {SPEECH, EMBEDDINGS}),
    )


def _check_context(config: Configuration) -> Iterator[str]:
    lengths = (config.model.get("context_length"), config.search.get("max_length"))
    if not any(isinstance(length, int) and length > 0 for length in lengths):
        yield f"its {CONFIG} has no model.context_length above 0"


def _check_graph(directory: Path, name: str) -> Iterator[str]:
    path = directory / name
    if not is_inside(directory, name):
        yield f"it has no {name}"
        return
    try:
        needed = read_external_data(path)
    except InvalidOnnx as error:
        yield f"its {name} is not an ONNX graph: {_describe_error(path, error)}"
        return
    except OSError as error:
        yield f"its {name} cannot be read ({error.strerror})"
        return
    beside = path.parent
    for data, size in needed.items():
        if not is_inside(beside, data):
            yield f"it has no {data}, where the weights of {name} are"
        elif (there := (beside / data).stat().st_size) < size:
            yield f"its {data} has {there} bytes, and {name} needs {size}: was it copied whole?"


def _describe_error(path: Path, error: InvalidOnnx) -> str:
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            return "it is a pointer of Git LFS; get the file itself with `git lfs pull`"
    return str(error)


def _check_tokenizer(directory: Path) -> Iterator[str]:
    content = _read_json(directory, TOKENIZER)
    if isinstance(content, str):
        yield content
    elif not isinstance(content.get("model"), dict):
        yield f"its {TOKENIZER} has no model section"


def _check_template(directory: Path, *, needed: bool) -> Iterator[str]:
    """A model that is served for chats needs a template."""
    content = _read_json(directory, TOKENIZER_CONFIG)
    if isinstance(content, str):
        yield content
    elif needed and not has_template(directory):
        yield f"it has no chat template, neither in {TOKENIZER_CONFIG} nor as {TEMPLATE}"


def _read_json(directory: Path, name: str) -> Mapping[str, Any] | str:
    """The object that a file holds, or what is wrong with it."""
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
