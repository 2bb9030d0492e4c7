"""The models that the builder converts correctly, as measured with ONNX Runtime GenAI 0.18.0."""

# The builder knows more architectures, and it ignores options that it does not know: a Llama with
# linear or YaRN scaling is built without a warning and answers nonsense. So these tables have only
# what was built from random weights, run, and compared with transformers, token by token.
# tests/real_model/test_import.py repeats that.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from foundry_api.model_import.errors import ModelSourceUnsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = [
    "ARCHITECTURES",
    "GGUF_ARCHITECTURES",
    "GGUF_PRE_TOKENIZERS",
    "find_architecture_problem",
    "find_rope_problem",
    "limit_context",
    "make_unsupported_error",
]

# Architectures, and the kinds of scaled positions (rope_type) that are supported with each.
ARCHITECTURES: Mapping[str, frozenset[str]] = {
    "Ernie4_5ForCausalLM": frozenset({"default"}),
    "Gemma2ForCausalLM": frozenset({"default"}),
    "GemmaForCausalLM": frozenset({"default"}),
    "GraniteForCausalLM": frozenset({"default"}),
    "HunYuanDenseV1ForCausalLM": frozenset({"default"}),
    "Lfm2ForCausalLM": frozenset({"default"}),
    "LlamaForCausalLM": frozenset({"default", "llama3"}),
    "MistralForCausalLM": frozenset({"default"}),
    "NemotronForCausalLM": frozenset({"default"}),
    "Phi3ForCausalLM": frozenset({"default"}),
    "PhiForCausalLM": frozenset({"default"}),
    "Qwen2ForCausalLM": frozenset({"default"}),
    "Qwen3ForCausalLM": frozenset({"default", "linear"}),
}

# Gemma 2 attends to a window in some of its layers, which the builder knows. Of these it forgets
# the window, so they are exact within it only.
_WINDOW_IS_IGNORED = frozenset({"MistralForCausalLM", "Phi3ForCausalLM"})
_WINDOW_IS_OPTIONAL = frozenset({"Qwen2ForCausalLM", "Qwen3ForCausalLM"})

# Of these the converter in transformers restores the weights, the configuration and the tokenizer.
GGUF_ARCHITECTURES: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# Ways to split text before the vocabulary is applied. transformers knows these, except for smollm,
# which program/convert.py restores. With another one, it would split as GPT-2 does.
GGUF_PRE_TOKENIZERS = frozenset(
    {"gpt-2", "smollm", "llama3", "llama-v3", "llama-bpe", "smaug-bpe", "qwen2", "deepseek-r1-qwen"}
)


def find_architecture_problem(name: object) -> str | None:
    """Return why an architecture cannot be converted, None if it can."""
    if isinstance(name, str) and name in ARCHITECTURES:
        return None
    stated = f"the architecture {name} is not supported" if name else "it names no architecture"
    return f"{stated}; supported are {', '.join(sorted(ARCHITECTURES))}"


def find_rope_problem(architecture: str, rope: object) -> str | None:
    """Return why scaled positions cannot be converted, None if they can."""
    section = cast("dict[str, Any]", rope) if isinstance(rope, dict) else {}
    kind: Any = section.get("rope_type") or section.get("type") or "default"
    supported = ARCHITECTURES[architecture]
    if isinstance(kind, str) and kind in supported:
        return None
    return (
        f"positions scaled with rope_type {kind} are not supported for {architecture}; "
        f"supported are {', '.join(sorted(supported))}"
    )


def limit_context(config: Mapping[str, Any]) -> int:
    """Return the length of the context in which a converted model answers as its source."""
    length: int = config["max_position_embeddings"]
    window: Any = config.get("sliding_window")
    architecture = config["architectures"][0]
    has_window = architecture in _WINDOW_IS_IGNORED or (
        architecture in _WINDOW_IS_OPTIONAL and config.get("use_sliding_window") is True
    )
    if has_window and isinstance(window, int) and 0 < window < length:
        return window
    return length


def make_unsupported_error(
    path: Path, problems: Iterable[str], *, hint: str | None = None
) -> ModelSourceUnsupported:
    listed = list(problems)
    return ModelSourceUnsupported(
        f"{path} cannot be imported: {'; '.join(listed)}", hint=hint
    ).with_problems(listed)
