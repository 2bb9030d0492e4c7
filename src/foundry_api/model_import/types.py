"""The source of an import, its options, and its progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from foundry_api.types.serialization import Result

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PRECISIONS", "ImportProgress", "ModelSource", "Precision", "SourceKind"]

SourceKind = Literal["directory", "gguf"]
Precision = Literal["int4", "int8", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("int4", "int8", "fp16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model that the builder can convert.

    Attributes:
        path: The absolute path of the directory or of the GGUF file.
        kind: Which of the two it is.
        architecture: The class of the model, such as `LlamaForCausalLM`.
        context_length: Maximum tokens of prompt and answer together.
        parameters: The number of weights.
        digest: Changes when the files change.
        head_size: Of a GGUF file: the size of an attention head, if it is stated.
        splitting: Of a GGUF file: how text is split before the vocabulary is applied.
        has_rope_factors: Of a GGUF file: whether it scales positions as Llama 3.1 does.
    """

    path: Path
    kind: SourceKind
    architecture: str
    context_length: int
    parameters: int
    digest: str
    head_size: int | None = None
    splitting: str | None = None
    has_rope_factors: bool = False


class ImportProgress(Result, msgspec.Struct, frozen=True, kw_only=True):
    """Progress of an import or of the installation of the builder.

    Attributes:
        step: What is done: `setup`, `weights`, `graph`, `reference`, `check` or `register`.
        number: The number of the step, from 1.
        total: The number of steps.
        percent: 0 to 100 within the step; None if it is unknown.
        detail: What the step works on, such as a package or a layer; empty if it does not say.
    """

    step: str
    number: int
    total: int
    percent: float | None = None
    detail: str = ""
