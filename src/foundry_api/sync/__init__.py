"""The client for code without asyncio."""

from foundry_api.sync.cache import SyncCache
from foundry_api.sync.client import FoundryClient
from foundry_api.sync.conversation import SyncConversation
from foundry_api.sync.models import SyncModels
from foundry_api.sync.responses import SyncResponses

__all__ = ["FoundryClient", "SyncCache", "SyncConversation", "SyncModels", "SyncResponses"]
