"""Trying a model directory in an engine of its own: the surest way to know that it works."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api.client import FoundryAPIClient
from foundry_api.errors import FoundryError
from foundry_api.service.model_task import CHAT, EMBEDDINGS
from foundry_api.settings import Settings

if TYPE_CHECKING:
    from foundry_api.messages import Model

__all__ = ["try_model"]

ALIAS = "trial"
FIRST_TOKEN_TIMEOUT_S = 300.0
"""A large model that was just read from a slow disk takes its time."""


async def try_model(directory: Path) -> str | None:
    """Load a model and have it answer once, in a temporary engine that nothing else uses.

    Args:
        directory: The model's files; they are only read.

    Returns:
        What keeps the engine from serving it, without a full stop; None if nothing does.

    Raises:
        ServiceStartFailed: There is no engine on this machine to try it in.
    """
    with tempfile.TemporaryDirectory(prefix=f"{ALIAS}-", ignore_cleanup_errors=True) as home:
        settings = Settings(
            service="embedded", home=Path(home), retries=0, timeout_s=FIRST_TOKEN_TIMEOUT_S
        )
        async with FoundryAPIClient(settings=settings) as client:
            await client.models.loaded()  # a failure to start is not the model's
            try:
                model = await client.models.register(directory, ALIAS)
                await client.models.load(ALIAS)
                await _call(client, model)
            except FoundryError as error:
                return error.message.replace(f"{ALIAS}:1", str(directory))
    return None


async def _call(client: FoundryAPIClient, model: Model) -> None:
    """Make the cheapest call of what a model is for; a recording to transcribe is not at hand."""
    if model.task == EMBEDDINGS:
        await client.embed("Hello", model=model.id)
    elif model.task == CHAT:
        await client.complete("Hello", model=model.id, max_tokens=1)
