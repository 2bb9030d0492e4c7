"""Checks whether a Hugging Face directory can be converted."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, cast

from foundry_api.engine.models.directory import CONFIG, TOKENIZER, is_inside
from foundry_api.engine.models.task import MAX_TOKENIZER_BYTES, TEMPLATE, TOKENIZER_CONFIG
from foundry_api.model_import.safetensors import InvalidSafetensors, read_tensors
from foundry_api.model_import.supported import (
    find_architecture_problem,
    find_rope_problem,
    limit_context,
    make_unsupported_error,
)
from foundry_api.model_import.types import ModelSource
from foundry_api.storage.private_file import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["inspect_directory"]

MODEL_CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 * 2**20

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
OTHER_MEDIA = {"vision_config": "images", "audio_config": "sound", "speech_config": "sound"}
# What the engine's tokenizer library reads, beside the kinds that only other tasks need.
TOKENIZER_KINDS = frozenset({"BPE"})


def inspect_directory(directory: Path) -> ModelSource:
    """Read a directory; ModelSourceUnsupported lists everything that cannot be converted."""
    if is_inside(directory, CONFIG):
        raise make_unsupported_error(
            directory,
            [f"it has a {CONFIG}, so it is a model for the engine already"],
            hint=f"Register it: `foundry-api models register {directory} --alias NAME`.",
        )
    config = _read_json(directory, MODEL_CONFIG)
    if isinstance(config, str):
        raise make_unsupported_error(directory, [config])
    tokenizer_config = _read_json(directory, TOKENIZER_CONFIG)
    problems = [
        *_check_config(config),
        *_check_tokenizer(directory, tokenizer_config),
        *_check_end_token(directory, config, tokenizer_config),
    ]
    weights = _list_weights(directory)
    parameters = 0
    for name in [] if isinstance(weights, str) else weights:
        counted = _count_parameters(directory, name)
        if isinstance(counted, str):
            problems.append(counted)
        else:
            parameters += counted
    if isinstance(weights, str):
        problems.append(weights)
        weights = []
    if problems:
        raise make_unsupported_error(directory, problems)
    return ModelSource(
        path=directory,
        kind="directory",
        architecture=config["architectures"][0],
        context_length=limit_context(config),
        parameters=parameters,
        digest=_compute_digest(directory, weights),
    )


def _check_config(config: Mapping[str, Any]) -> Iterator[str]:
    for field, medium in OTHER_MEDIA.items():
        if field in config:
            yield f"{MODEL_CONFIG} has {field}: models that take {medium} are not supported"
    architectures: Any = config.get("architectures")
    name: Any = architectures[0] if _is_filled_list(architectures) else None
    rope: Any = config.get("rope_parameters") or config.get("rope_scaling")
    problem = find_architecture_problem(name) or find_rope_problem(str(name), rope)
    if problem:
        yield f"{MODEL_CONFIG}: {problem}"
    quantization: Any = config.get("quantization_config")
    if quantization:
        method: Any = (
            cast("dict[str, Any]", quantization).get("quant_method")
            if isinstance(quantization, dict)
            else quantization
        )
        yield (
            f"{MODEL_CONFIG} has quantization_config ({method}): quantised weights are not "
            "supported; take the model that they were made from"
        )
    length = config.get("max_position_embeddings")
    if not isinstance(length, int) or length <= 0:
        yield f"{MODEL_CONFIG} has no max_position_embeddings, the length of the context"


def _is_filled_list(value: object) -> bool:
    return isinstance(value, list) and value != []


def _check_tokenizer(directory: Path, tokenizer_config: Mapping[str, Any] | str) -> Iterator[str]:
    tokenizer = _read_json(directory, TOKENIZER, MAX_TOKENIZER_BYTES)
    if isinstance(tokenizer, str):
        yield tokenizer
    else:
        model = tokenizer.get("model")
        kind = cast("dict[str, Any]", model).get("type") if isinstance(model, dict) else None
        if kind not in TOKENIZER_KINDS:
            yield f"{TOKENIZER} has a tokenizer of type {kind}: the engine reads BPE only"
    if isinstance(tokenizer_config, str):
        yield tokenizer_config
    elif not tokenizer_config.get("chat_template") and not is_inside(directory, TEMPLATE):
        yield (
            f"it has no chat template, neither in {TOKENIZER_CONFIG} nor as {TEMPLATE}: it may be "
            "a base model; take the one for chat, often called Instruct"
        )


def _check_end_token(
    directory: Path, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any] | str
) -> Iterator[str]:
    generation: Mapping[str, Any] = {}
    if is_inside(directory, GENERATION_CONFIG):
        content = _read_json(directory, GENERATION_CONFIG)
        if isinstance(content, str):
            yield content
            return
        generation = content
    if isinstance(tokenizer_config, str):
        return
    ids = config.get("eos_token_id"), generation.get("eos_token_id")
    if all(value is None for value in ids) and not tokenizer_config.get("eos_token"):
        yield (
            f"no file names the token that ends an answer: eos_token_id in {MODEL_CONFIG} or "
            f"{GENERATION_CONFIG}, or eos_token in {TOKENIZER_CONFIG}"
        )


def _list_weights(directory: Path) -> list[str] | str:
    """List the files with the weights, or return what is wrong with them."""
    if is_inside(directory, WEIGHTS):
        return [WEIGHTS]
    if not is_inside(directory, WEIGHTS_INDEX):
        if any(directory.glob("*.bin")):
            return (
                f"it has no {WEIGHTS}: weights in .bin files are Python pickles, which can run "
                "code, and are not read; take the model with safetensors"
            )
        if any(directory.glob("*.gguf")):
            return f"it has no {WEIGHTS}; to import a GGUF file, give the file itself"
        return f"it has no {WEIGHTS} and no {WEIGHTS_INDEX}"
    index = _read_json(directory, WEIGHTS_INDEX, MAX_INDEX_BYTES)
    if isinstance(index, str):
        return index
    names = index.get("weight_map")
    files = set(cast("dict[str, Any]", names).values()) if isinstance(names, dict) else set[Any]()
    if not files or not all(isinstance(name, str) for name in files):
        return f"its {WEIGHTS_INDEX} has no weight_map"
    missing = sorted(name for name in files if not is_inside(directory, name))
    return f"it has no {' and no '.join(missing)}" if missing else sorted(files)


def _count_parameters(directory: Path, name: str) -> int | str:
    """Return the number of weights in a file, or what is wrong with the file."""
    try:
        tensors = read_tensors(directory / name)
    except InvalidSafetensors as error:
        return f"{name} cannot be used: {error}"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    for tensor_name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            return (
                f"{name} has weights of type {tensor.dtype}, such as {tensor_name}: quantised "
                "weights are not supported; take the model that they were made from"
            )
    return sum(tensor.elements for tensor in tensors.values())


def _compute_digest(directory: Path, weights: list[str]) -> str:
    # Of the small files the bytes, of the large ones the sizes and the times: hashing gigabytes
    # would take longer than a resumed import.
    hasher = hashlib.sha256()
    for name in (MODEL_CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, TEMPLATE):
        if is_inside(directory, name):
            hasher.update(name.encode() + read_file(directory / name, MAX_TOKENIZER_BYTES))
    for name in weights:
        status = (directory / name).stat()
        hasher.update(f"\0{name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return hasher.hexdigest()[:32]


def _read_json(directory: Path, name: str, max_bytes: int = 2**20) -> dict[str, Any] | str:
    """Return the JSON object in a file, or what is wrong with the file."""
    if not is_inside(directory, name):
        return f"it has no {name}"
    path = directory / name
    try:
        if path.stat().st_size > max_bytes:
            return f"its {name} is larger than {max_bytes} bytes"
        content: Any = json.loads(read_file(path, max_bytes).decode())
    except OSError as error:
        return f"its {name} cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        return f"its {name} is not JSON ({error})"
    if not isinstance(content, dict):
        return f"its {name} is not a JSON object"
    return cast("dict[str, Any]", content)
