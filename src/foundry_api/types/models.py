"""Models, as the catalog describes them, and the programs that use them."""

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
        cached: Whether the model is downloaded; None if the service does not report it.
        loaded: Whether the model is in memory.
        task: Such as `chat-completion`; None if unknown.
        device: CPU, GPU or NPU; None if unknown.
        size_mb: Size of the files in MB; None if unknown.
        context_length: Maximum tokens of prompt and answer together; None if unknown.
        license: The license; None if unknown.
        publisher: The publisher; None if unknown.
        max_output_tokens: Maximum tokens of an answer; None if unknown.
        supports_tools: Whether the model is trained to call tools; None if unknown.
        execution_provider: Such as `CUDAExecutionProvider`; None if unknown.
        base_model: The asset that the model is derived from; None if unknown.
        path: Directory of the files on the service's machine; None if the model is not downloaded
            or the service does not report it.
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
        program: The name of the client's program.
        pid: The client's process id.
        last_used_s: Seconds since the client last reported that it uses the model.
        in_flight: Calls in flight; None for other clients than the reporting one.
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
