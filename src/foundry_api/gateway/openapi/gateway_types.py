"""The answers of the gateway's own routes, as the description shows them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from foundry_api.gateway.upstreams.upstreams import UpstreamStatus

__all__ = [
    "GatewayModel",
    "GatewayModelList",
    "GatewayStatus",
    "Health",
    "LlamaModelList",
    "PullEvent",
    "Readiness",
    "Reloaded",
    "RemovedModel",
    "Success",
]


class Health(msgspec.Struct):
    """The answer of `GET /healthz`."""

    status: Literal["ok"]


class Readiness(msgspec.Struct):
    """The answer of `GET /readyz`."""

    status: Literal["ready", "unavailable"]


class KeyQueue(msgspec.Struct):
    """The calls of a key.

    Attributes:
        key: The name of the key.
        estimated_wait_s: Seconds until a further call would start; null if it is unknown.
    """

    key: str
    running: int
    waiting: int
    estimated_wait_s: float | None


class GatewayStatus(msgspec.Struct):
    """The answer of `GET /api/status`.

    Attributes:
        problems: Why the gateway cannot serve calls, or not all of them.
        in_flight: Calls that have a slot.
        waiting: Calls that wait for a slot.
        keys: The keys with calls.
        upstreams: The services behind the gateway, if its configuration names them.
    """

    version: str
    ready: bool
    problems: list[str]
    in_flight: int
    waiting: int
    keys: list[KeyQueue]
    upstreams: list[UpstreamStatus]


class Reloaded(msgspec.Struct):
    """The answer of `POST /api/reload`."""

    status: Literal["reloaded"]


class GatewayModel(msgspec.Struct, kw_only=True):
    """A model, as the service describes it. What it does not say is left out.

    Attributes:
        id: The full name with its version.
        alias: The short name.
        catalog: `local` for models of this machine, `public` for Microsoft's.
        cached: Whether it is on this machine.
        loaded: Whether it is in memory.
        size_mb: Size of the files in MB.
        context_length: Limit of prompt and answer together, in tokens.
        max_output_tokens: Limit of an answer, in tokens.
        supports_tools: Whether it is trained to call tools.
    """

    id: str
    alias: str
    catalog: Literal["local", "public"]
    loaded: bool
    cached: bool | msgspec.UnsetType = msgspec.UNSET
    task: str | msgspec.UnsetType = msgspec.UNSET
    device: str | msgspec.UnsetType = msgspec.UNSET
    size_mb: int | msgspec.UnsetType = msgspec.UNSET
    context_length: int | msgspec.UnsetType = msgspec.UNSET
    license: str | msgspec.UnsetType = msgspec.UNSET
    publisher: str | msgspec.UnsetType = msgspec.UNSET
    max_output_tokens: int | msgspec.UnsetType = msgspec.UNSET
    supports_tools: bool | msgspec.UnsetType = msgspec.UNSET
    execution_provider: str | msgspec.UnsetType = msgspec.UNSET
    base_model: str | msgspec.UnsetType = msgspec.UNSET


class GatewayModelList(msgspec.Struct):
    """The answer of `GET /api/models`."""

    models: list[GatewayModel]


class PullEvent(msgspec.Struct, kw_only=True):
    """The data of an event of a download; the last one has the status.

    Attributes:
        percent: 0 to 100. Never decreases.
        done_mb: Downloaded size; null if it is unknown.
        total_mb: Size; null if it is unknown.
        mb_per_s: Speed; null if it is unknown.
        remaining_s: Estimated seconds until the end; null if they are unknown.
    """

    status: Literal["success"] | msgspec.UnsetType = msgspec.UNSET
    percent: float | msgspec.UnsetType = msgspec.UNSET
    done_mb: float | msgspec.UnsetType | None = msgspec.UNSET
    total_mb: float | msgspec.UnsetType | None = msgspec.UNSET
    mb_per_s: float | msgspec.UnsetType | None = msgspec.UNSET
    remaining_s: float | msgspec.UnsetType | None = msgspec.UNSET


class RemovedModel(msgspec.Struct):
    """The answer of `DELETE /api/models/{id}`."""

    model: str
    freed_bytes: int


class LlamaStatus(msgspec.Struct):
    """Whether a model is in memory, and of a download what is there of each file, in bytes."""

    value: Literal["loaded", "unloaded", "loading", "downloading"]
    progress: dict[str, dict[str, int]] | msgspec.UnsetType = msgspec.UNSET


class LlamaModel(msgspec.Struct):
    """A model, as llama.cpp's router describes it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    status: LlamaStatus
    aliases: list[str] | msgspec.UnsetType = msgspec.UNSET
    architecture: dict[str, list[str]] | msgspec.UnsetType = msgspec.UNSET
    can_remove: bool | msgspec.UnsetType = msgspec.UNSET


class LlamaModelList(msgspec.Struct):
    """The answer of `GET /models`."""

    object: Literal["list"]
    data: list[LlamaModel]


class LlamaEvent(msgspec.Struct):
    """The data of an event of `/models/sse`."""

    model: str
    event: Literal[
        "model_status", "model_remove", "download_progress", "download_finished", "download_failed"
    ]
    data: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class EngineState(msgspec.Struct):
    """The engine behind the gateway; null for what is not known."""

    service_generation: str
    version: str | None
    memory_bytes: int | None
    uptime_s: float | None


class ServiceState(msgspec.Struct):
    """The answer of `GET /status`; the engine is null before its first call."""

    object: Literal["gateway"]
    version: str
    ready: bool
    engine: EngineState | None


class Success(msgspec.Struct):
    """The answer of llama.cpp's routes."""

    success: Literal[True]
