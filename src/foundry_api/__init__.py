"""Microsoft Foundry Local as an API in production: direct HTTP, without the OpenAI SDK.

>>> from foundry_api import FoundryAPIClient
>>> async with FoundryAPIClient() as client:
...     response = await client.complete(prompt="Explain quantum computing", model="demo")
...     print(response.content)
"""

from __future__ import annotations

import importlib
from typing import Any

from foundry_api._version import __version__

# `__init__.pyi` names the same for type checkers; a test compares the two.
_HOMES = {
    "batch.keywords": ("BatchKeywords",),
    "batch.lines": ("BatchRequest",),
    "batch.options": ("BatchOptions", "InputOptions"),
    "batch.results": ("BatchResult",),
    "cache.memory": ("MemoryCache",),
    "cache.sqlite": ("SqliteCache",),
    "cache.store": ("CacheStats", "ResponseCache"),
    "capabilities": ("Capabilities", "Support"),
    "client": ("FoundryAPIClient",),
    "catalog": ("CatalogListing",),
    "downloads": ("DownloadProgress",),
    "errors": (
        "BatchCancelled",
        "BatchChanged",
        "BatchError",
        "BatchInUse",
        "BatchInputInvalid",
        "BatchStorageFailed",
        "CallTimeout",
        "CatalogUnavailable",
        "CircuitOpen",
        "ClientClosed",
        "ConfigurationError",
        "ConnectTimeout",
        "ContextOverflow",
        "DeadlineExceeded",
        "DownloadFailed",
        "FoundryError",
        "GrammarError",
        "HookFailed",
        "InvalidRequest",
        "MemoryBudgetExceeded",
        "ModelError",
        "ModelInUse",
        "ModelLoadFailed",
        "ModelNotCached",
        "ModelNotFound",
        "ModelNotLoaded",
        "ModelRegistrationFailed",
        "ModelTaskMismatch",
        "ProtocolError",
        "QueueFull",
        "ResponseNotFound",
        "RouteMissing",
        "ServerError",
        "ServiceCrashed",
        "ServiceError",
        "ServiceNotRunning",
        "ServiceOverloaded",
        "ServiceStartFailed",
        "SilenceTimeout",
        "StreamInterrupted",
        "StructuredOutputError",
        "ToolCallError",
        "ToolDefinitionError",
        "ToolError",
        "ToolFailed",
        "ToolMarkersMissing",
        "ToolRoundsExceeded",
        "UnsupportedFeature",
        "UnsupportedParameter",
    ),
    "endpoints.conversation": ("Conversation",),
    "endpoints.options": ("ModelOptions", "ResponseOptions", "TimeOptions"),
    "endpoints.responses": ("Responses",),
    "events": (
        "AttemptStarted",
        "BreakerChanged",
        "CacheHit",
        "CacheMiss",
        "CacheStored",
        "CacheTrouble",
        "CallEnded",
        "CallStarted",
        "Event",
        "FirstToken",
        "ModelLoaded",
        "ModelUnloaded",
        "RetryScheduled",
    ),
    "health": ("HealthStatus",),
    "health_monitor": (
        "AlertCommand",
        "AlertWebhook",
        "Canary",
        "HealthChanged",
        "HealthMonitor",
        "HealthSample",
        "HealthSummary",
        "Hysteresis",
        "Traffic",
    ),
    "messages": (
        "Attempt",
        "Chunk",
        "Completion",
        "FinishReason",
        "FunctionCall",
        "Generation",
        "Message",
        "Model",
        "ModelUser",
        "Role",
        "Timings",
        "ToolCall",
        "ToolDefinition",
        "Usage",
    ),
    "models": ("Models",),
    "options": ("ChatOptions", "CheckedOptions", "RunOptions"),
    "observe.call_log": ("CallLog",),
    "observe.metrics": ("Metrics", "MetricsSnapshot", "SeriesSnapshot"),
    "replies.embeddings": ("Embeddings",),
    "replies.raw": ("RawReply",),
    "replies.responses": ("Response", "ResponseEvent", "ResponseItem", "ResponsePage"),
    "replies.transcription": ("Transcription", "TranscriptionChunk"),
    "residency.policy": ("ModelResidency",),
    "resilience.deadline": ("deadline",),
    "resilience.limiter": ("LimiterSettings", "LimiterStatistics"),
    "resilience.window": ("BreakerSettings", "BreakerStatistics"),
    "settings": ("Settings",),
    "sync": ("FoundryClient", "SyncCache", "SyncConversation", "SyncModels", "SyncResponses"),
    "tools.definition": ("Tool", "tool"),
    "tools.outcome": ("ToolResult", "ToolRun"),
    "wire.hooks": ("Auth", "RequestHook", "ResponseHook"),
    "wire.transport": ("Request", "ResponseHead"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll] # the table's keys
    "__version__",
    *_HOME_OF,
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
