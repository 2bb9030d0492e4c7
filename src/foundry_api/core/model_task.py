"""Detect what a model can do, and reject requests that an old service would mishandle.

An embeddings request to a chat model crashes a service of SDK 1.x or 2.0, and 1.x silently drops
images that a model does not support (tested with 1.2.4 and 2.0.1). From 2.1 on both are rejected.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api.engine.models.download_cache import list_downloaded
from foundry_api.engine.models.task import VISION, detect_speech, detect_task, is_embedding_model
from foundry_api.types.errors import FoundryError, ModelTaskMismatch
from foundry_api.wire.dialects.model_ids import strip_version
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from foundry_api.core.connection import Connection
    from foundry_api.engine.models.task import Speech
    from foundry_api.types.models import Model

__all__ = ["check_embedding_support", "check_vision", "detect_speech_kind"]

_ENGLISH = re.compile(r"[.-]en\b")

# `embeddings` is the engine's name of the task, `embedding` that of the public catalog.
EMBEDDING_TASKS = frozenset({"embeddings", "embedding", "text-embedding", "feature-extraction"})


async def check_embedding_support(connection: Connection, model: Model) -> None:
    """Raise ModelTaskMismatch if the model has no embeddings, or if the request might crash."""
    is_supported = connection.embedding_support.get(model.id)
    if is_supported is None:
        is_supported = await _detect_embedding_support(connection, model)
        if is_supported is not None:
            connection.embedding_support[model.id] = is_supported
    if is_supported is False:
        raise ModelTaskMismatch(
            f"{model.id} makes no embeddings: its graph has no output hidden_states",
            model=model.id,
            service=connection.base_url,
        )
    can_reject = connection.dialect.capabilities.embed_with_chat_model == "native"
    if is_supported is None and not can_reject:
        raise ModelTaskMismatch(
            f"it is unknown whether {model.id} makes embeddings, and a service of generation "
            f"{connection.endpoint.service_generation} crashes if the model does not",
            hint="Use a service of SDK 2.1 or later, or call this one from its own machine.",
            model=model.id,
            service=connection.base_url,
        )


async def check_vision(connection: Connection, model: Model) -> None:
    """Raise ModelTaskMismatch if the service might silently drop an image."""
    if connection.dialect.capabilities.refuses_images == "native":
        return
    tasks, directory = await _get_tasks_and_directory(connection, model)
    if VISION in tasks or (directory and await asyncio.to_thread(detect_task, directory) == VISION):
        return
    raise ModelTaskMismatch(
        f"{model.id} is not known to support images, and a service of generation "
        f"{connection.endpoint.service_generation} silently drops unsupported images",
        hint="Use a model with vision, such as phi-3.5-vision, or leave the image out.",
        model=model.id,
        service=connection.base_url,
    )


async def detect_speech_kind(connection: Connection, model: Model) -> Speech | None:
    """Return the kind of a speech model by its files or its name; None if unknown.

    No check is needed: all services reject a model that is not for speech.
    """
    _, directory = await _get_tasks_and_directory(connection, model)
    if directory is not None:
        return await asyncio.to_thread(detect_speech, directory)
    name = f"{model.alias} {model.id}".lower()
    if "nemotron" in name:
        return "nemotron"
    if "whisper" not in name:
        return None
    return "english" if _ENGLISH.search(name) else "whisper"


async def _detect_embedding_support(connection: Connection, model: Model) -> bool | None:
    tasks, directory = await _get_tasks_and_directory(connection, model)
    if not tasks.isdisjoint(EMBEDDING_TASKS):
        return True
    # A description without the task proves nothing: only the files of the model do.
    return None if directory is None else await asyncio.to_thread(is_embedding_model, directory)


async def _get_tasks_and_directory(
    connection: Connection, model: Model
) -> tuple[frozenset[str], Path | None]:
    """Return the declared tasks, and the directory of the files if it is on this machine."""
    known: list[Model] = []
    if connection.control is not None:
        known += await connection.control.list_local_models()
    cached_listing = await connection.catalog.get_cached_listing()
    known += cached_listing.models if cached_listing is not None else ()
    descriptions = [
        model,
        *(other for other in known if other.id == model.id and other.catalog == model.catalog),
    ]
    tasks = frozenset(description.task.lower() for description in descriptions if description.task)
    paths = [Path(description.path) for description in descriptions if description.path is not None]
    return tasks, paths[0] if paths else await _find_directory(connection, model)


async def _find_directory(connection: Connection, model: Model) -> Path | None:
    """Return the directory of a downloaded model, if it is on this machine and readable."""
    if model.catalog != "public" or not is_loopback(connection.base_url):
        return None
    try:
        cache_dir = (await connection.dialect.get_status()).cache_dir
        if cache_dir is None:
            return None
        directories = await asyncio.to_thread(list_downloaded, Path(cache_dir))
    except (FoundryError, OSError):
        return None
    if exact := directories.get(model.id):
        return exact
    # 1.x lists models without version. If several are downloaded, it is unknown which one runs.
    paths = [path for name, path in directories.items() if strip_version(name) == model.id]
    return paths[0] if len(paths) == 1 else None
