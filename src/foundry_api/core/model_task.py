"""What a model is made for, found out before it is asked.

A chat model that is asked to embed kills a service of SDK 1.x or 2.0, and 1.x drops images for one
without a word (probed on 1.2.4 and 2.0.1). From 2.1 on both are refused.
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
    from collections.abc import Mapping

    from foundry_api.core.connection import Connection
    from foundry_api.engine.models.task import Speech
    from foundry_api.types.models import Model

__all__ = ["check_embedding_support", "check_vision", "detect_speech_kind"]

_ENGLISH = re.compile(r"[.-]en\b")

EMBEDDING_TASKS = frozenset({"embeddings", "embedding", "text-embedding", "feature-extraction"})
"""`embeddings` is the engine's own word, `embedding` the public catalog's."""


async def check_embedding_support(connection: Connection, model: Model) -> None:
    """Refuse a model that cannot embed.

    What the catalog or the registration says of it is believed when it says yes. Else its files
    decide, where they are on this machine. Where neither tells, the service is asked, if it
    survives that.

    Raises:
        ModelTaskMismatch: It cannot, or nobody can tell and the service would not survive it.
    """
    known = connection.embedding_support.get(model.id)
    if known is None:
        known = await _declared_task(connection, model)
        if known is not None:
            connection.embedding_support[model.id] = known
    if known is False:
        raise ModelTaskMismatch(
            f"{model.id} makes no embeddings: its graph has no output hidden_states",
            model=model.id,
            service=connection.base_url,
        )
    if known is None and not connection.dialect.capabilities.embed_with_chat_model == "native":
        raise ModelTaskMismatch(
            f"nobody can tell whether {model.id} makes embeddings, and a service of generation "
            f"{connection.endpoint.service_generation} dies of being asked for those of a model "
            "without",
            hint="Use a service of SDK 2.1 or later, or call this one from its own machine.",
            model=model.id,
            service=connection.base_url,
        )


async def check_vision(connection: Connection, model: Model) -> None:
    """Refuse an image that the service would drop.

    Raises:
        ModelTaskMismatch: It would, or nobody can tell.
    """
    if connection.dialect.capabilities.refuses_images == "native":
        return
    tasks, directory = await _get_tasks_and_directory(connection, model)
    if VISION in tasks or (directory and await asyncio.to_thread(detect_task, directory) == VISION):
        return
    raise ModelTaskMismatch(
        f"{model.id} is not known to see images, and a service of generation "
        f"{connection.endpoint.service_generation} drops those that a model does not see",
        hint="Name a model with a vision part, such as phi-3.5-vision, or leave the image out.",
        model=model.id,
        service=connection.base_url,
    )


async def detect_speech_kind(connection: Connection, model: Model) -> Speech | None:
    """What kind of transcriber a model is, by its files or else its name; None if it says nothing.

    A model that is no transcriber is refused by the service.
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


async def _declared_task(connection: Connection, model: Model) -> bool | None:
    """Whether it embeds; None where nothing tells."""
    tasks, directory = await _get_tasks_and_directory(connection, model)
    if not tasks.isdisjoint(EMBEDDING_TASKS):
        return True
    return None if directory is None else await asyncio.to_thread(is_embedding_model, directory)


async def _get_tasks_and_directory(
    connection: Connection, model: Model
) -> tuple[frozenset[str], Path | None]:
    """The tasks that it is said to have, and where its files lie, if that is on this machine."""
    descriptions = [model, *await _get_descriptions(connection, model)]
    tasks = frozenset(description.task.lower() for description in descriptions if description.task)
    paths = [Path(description.path) for description in descriptions if description.path is not None]
    return tasks, paths[0] if paths else await _find_directory(connection, model)


async def _get_descriptions(connection: Connection, model: Model) -> list[Model]:
    """What the host's control API and the remembered catalog say of it."""
    known: list[Model] = []
    if connection.control is not None:
        known += await connection.control.list_local_models()
    cached_listing = await connection.catalog.cached_listing()
    known += cached_listing.models if cached_listing is not None else ()
    return [
        description
        for description in known
        if description.id == model.id and description.catalog == model.catalog
    ]


async def _find_directory(connection: Connection, model: Model) -> Path | None:
    """Where a downloaded model lies, if that is on this machine and ours to look into."""
    if model.catalog != "public" or not is_loopback(connection.base_url):
        return None
    try:
        cache_dir = (await connection.dialect.get_status()).cache_dir
        if cache_dir is None:
            return None
        return _select_directory(model, await asyncio.to_thread(list_downloaded, Path(cache_dir)))
    except (FoundryError, OSError):
        return None


def _select_directory(model: Model, directories: Mapping[str, Path]) -> Path | None:
    """1.x names a model without its version: of several nobody knows which one it runs."""
    if exact := directories.get(model.id):
        return exact
    paths = [path for name, path in directories.items() if strip_version(name) == model.id]
    return paths[0] if len(paths) == 1 else None
