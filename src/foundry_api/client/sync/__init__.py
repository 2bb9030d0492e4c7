"""The client for code without asyncio."""

from foundry_api.client.sync.generated import (
    FoundryClient,
    SyncCache,
    SyncConversation,
    SyncModels,
    SyncResponses,
)

__all__ = ["FoundryClient", "SyncCache", "SyncConversation", "SyncModels", "SyncResponses"]
