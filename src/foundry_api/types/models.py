"""Models: what the catalog says of them, and which programs use them."""

from __future__ import annotations

from typing import Literal

import msgspec

from foundry_api.types.serialization import Result

__all__ = ["Model", "ModelUser"]


class Model(Result, msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One variant of a model, as the service or its catalog describes it.

    Attributes:
        id: The full name with its version, such as `Phi-4-mini-instruct-generic-cpu:4`.
        alias: The short name, such as `phi-4-mini`; several variants may share it.
        catalog: `local` for directories registered on this machine, `public` for Microsoft's.
        cached: Whether its files are on this machine; None where the service cannot tell.
        loaded: Whether it is in memory.
        task: Such as `chat-completion`; None if unknown.
        device: CPU, GPU or NPU; None if unknown.
        size_mb: Size of its files; None if unknown.
        context_length: Prompt and answer together, in tokens; None if unknown.
        license: Its licence; None if unknown.
        publisher: Who published it; None if unknown.
        max_output_tokens: The longest answer that it is made for; None if unknown.
        supports_tools: Whether it was made to call tools; None if unknown.
        execution_provider: What runs it, such as `CUDAExecutionProvider`; None if unknown.
        base_model: The asset that it was made from; None if unknown.
        path: Where its files lie on the service's machine; None if they don't, or it doesn't tell.
    """

    id: str
    alias: str
    catalog: Literal["local", "public"]
    cached: bool | None = None
    loaded: bool = False
    task: str | None = None
    device: str | None = None
    size_mb: int | None = None
    context_length: int | None = None
    license: str | None = None
    publisher: str | None = None
    max_output_tokens: int | None = None
    supports_tools: bool | None = None
    execution_provider: str | None = None
    base_model: str | None = None
    path: str | None = None


class ModelUser(Result, msgspec.Struct, frozen=True, kw_only=True):
    """A client that uses a model.

    Attributes:
        program: The program that it is part of.
        pid: Its process.
        last_used_s: Seconds since it last called the model, or said that it still does.
        in_flight: Its calls in flight; None for clients other than the one that tells.
    """

    program: str
    pid: int
    last_used_s: float
    in_flight: int | None = None

    def __str__(self) -> str:
        who = f"{self.program} (pid {self.pid})"
        if self.in_flight:
            return f"{self.in_flight} call{'s' if self.in_flight > 1 else ''} of {who}"
        return f"{who}, last {max(self.last_used_s, 0.0):.0f} s ago"
