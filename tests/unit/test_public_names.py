"""The public names of the package."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
import types
from pathlib import Path

import pytest

import foundry_api

PUBLIC = [
    "AlertCommand",
    "AlertWebhook",
    "AttemptRecord",
    "AttemptStarted",
    "Auth",
    "AuthenticationFailed",
    "BatchCancelled",
    "BatchError",
    "BatchInUse",
    "BatchInputInvalid",
    "BatchKeywords",
    "BatchMismatch",
    "BatchOptions",
    "BatchRequest",
    "BatchResult",
    "BatchStorageFailed",
    "BreakerChanged",
    "BreakerSettings",
    "BreakerStatistics",
    "CacheHit",
    "CacheMiss",
    "CacheStats",
    "CacheStored",
    "CacheTrouble",
    "CallEnded",
    "CallLog",
    "CallStarted",
    "CallTimeout",
    "Canary",
    "Capabilities",
    "CatalogListing",
    "CatalogUnavailable",
    "ChatOptions",
    "Chunk",
    "CircuitOpen",
    "ClientClosed",
    "Completion",
    "CompletionOptions",
    "ConfigurationError",
    "ConnectTimeout",
    "ContextOverflow",
    "Conversation",
    "DeadlineExceeded",
    "DeadlineTooShort",
    "DownloadFailed",
    "DownloadProgress",
    "Embeddings",
    "Event",
    "FinishReason",
    "FirstToken",
    "FoundryAPIClient",
    "FoundryClient",
    "FoundryError",
    "FunctionCall",
    "GrammarError",
    "HealthChanged",
    "HealthMonitor",
    "HealthSample",
    "HealthStatus",
    "HealthSummary",
    "HookFailed",
    "Hysteresis",
    "ImportProgress",
    "InputOptions",
    "InvalidRequest",
    "LimiterSettings",
    "LimiterStatistics",
    "MaxTurnsExceeded",
    "MemoryBudgetExceeded",
    "MemoryCache",
    "Message",
    "Metrics",
    "MetricsSnapshot",
    "Model",
    "ModelBuilderMissing",
    "ModelError",
    "ModelImportFailed",
    "ModelInUse",
    "ModelLoadFailed",
    "ModelLoaded",
    "ModelNotCached",
    "ModelNotFound",
    "ModelNotLoaded",
    "ModelOptions",
    "ModelRegistrationFailed",
    "ModelResidency",
    "ModelSourceUnsupported",
    "ModelTaskMismatch",
    "ModelUnloaded",
    "ModelUser",
    "Models",
    "PermissionDenied",
    "ProtocolError",
    "QueueFull",
    "QuotaExceeded",
    "RawResponse",
    "ReadTimeout",
    "Request",
    "RequestHook",
    "Response",
    "ResponseCache",
    "ResponseEvent",
    "ResponseHead",
    "ResponseHook",
    "ResponseItem",
    "ResponseNotFound",
    "ResponseOptions",
    "ResponsePage",
    "Responses",
    "RetryScheduled",
    "Role",
    "RouteNotFound",
    "SeriesSnapshot",
    "ServerError",
    "ServiceCrashed",
    "ServiceError",
    "ServiceGeneration",
    "ServiceNotRunning",
    "ServiceOverloaded",
    "ServiceStartFailed",
    "Settings",
    "SqliteCache",
    "StreamInterrupted",
    "StructuredOptions",
    "StructuredOutputError",
    "Support",
    "SyncCache",
    "SyncConversation",
    "SyncModels",
    "SyncResponses",
    "TimeOptions",
    "Timings",
    "Tool",
    "ToolCall",
    "ToolCallError",
    "ToolDefinition",
    "ToolDefinitionError",
    "ToolError",
    "ToolFailed",
    "ToolMarkersMissing",
    "ToolResult",
    "ToolRun",
    "Traffic",
    "Transcription",
    "TranscriptionChunk",
    "UnsupportedFeature",
    "UnsupportedParameter",
    "Usage",
    "__version__",
    "deadline",
    "tool",
]


def test_all_lists_the_public_names() -> None:
    assert sorted(foundry_api.__all__) == PUBLIC
    assert len(foundry_api.__all__) == len(set(foundry_api.__all__))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(foundry_api, name) is not None


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_public_names_and_members_have_docstrings(name: str) -> None:
    """The lint rule does not apply to rooms that contain public and internal classes."""
    value = getattr(foundry_api, name)
    if not isinstance(value, type | types.FunctionType):
        return  # a type alias has no docstring of its own
    members = vars(value).items() if isinstance(value, type) else ()
    bare = [
        member
        for member, found in members
        if not member.startswith("_")
        and isinstance(found, types.FunctionType | property | classmethod | staticmethod)
        and not inspect.getdoc(getattr(value, member))
    ]
    assert value.__doc__, name
    assert bare == []


def test_dir_lists_the_public_names() -> None:
    assert dir(foundry_api) == PUBLIC


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'foundry_api' has no attribute 'Nothing'"):
        foundry_api.Nothing  # noqa: B018 - looking is the test


def test_every_name_is_public_in_its_module() -> None:
    for module, names in foundry_api._NAMES_BY_MODULE.items():
        exported = importlib.import_module(f"foundry_api.{module}").__all__
        assert set(names) <= set(exported), module


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(foundry_api.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.asname: (node.module or "").removeprefix("foundry_api.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == foundry_api._MODULES_BY_NAME


def test_the_package_is_marked_as_typed() -> None:
    assert Path(foundry_api.__file__).with_name("py.typed").is_file()


@pytest.mark.parametrize("module", ["api_client", "health_monitor"])
def test_the_facades_give_the_same_objects(module: str) -> None:
    """In a separate process, because a facade adds the checkout to sys.path."""
    root = Path(foundry_api.__file__).parents[2]
    if not (root / f"{module}.py").is_file():
        pytest.skip("not a checkout")
    program = (
        f"import {module}, foundry_api\n"
        f"assert set({module}.__all__) <= set(foundry_api.__all__)\n"
        f"assert all(getattr({module}, n) is getattr(foundry_api, n) for n in {module}.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)
