"""The client for code without asyncio."""

from foundry_api.sync.cache import SyncCache
from foundry_api.sync.client import FoundryClient
from foundry_api.sync.models import SyncModels

__all__ = ["FoundryClient", "SyncCache", "SyncModels"]
