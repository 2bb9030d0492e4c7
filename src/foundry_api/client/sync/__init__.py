"""The client for code without asyncio."""

from foundry_api.client.sync.cache import SyncCache
from foundry_api.client.sync.client import FoundryClient
from foundry_api.client.sync.conversation import SyncConversation
from foundry_api.client.sync.models import SyncModels
from foundry_api.client.sync.responses import SyncResponses

__all__ = ["FoundryClient", "SyncCache", "SyncConversation", "SyncModels", "SyncResponses"]
