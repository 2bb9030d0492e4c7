"""The builder converts every architecture that is listed as supported, token by token.

Models with random weights are converted in the builder's environment, and compared with what
transformers computes from the same weights.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from foundry_api.model_import.builder import Builder
from foundry_api.model_import.importer import ImportRequest, convert_model
from foundry_api.model_import.source import inspect_source
from real_model.models import MODELS

BUILDER = Builder(MODELS / "builder")
TINY_MODELS = Path(__file__).with_name("tiny_models.py")
KINDS = (
    "ernie", "gemma", "gemma2", "granite", "hunyuan", "lfm2", "llama", "llama-tied", "llama3",
    "mistral", "nemotron", "phi", "phi3", "qwen2", "qwen3", "qwen3-linear",
)  # fmt: skip


def run_tiny_models(*arguments: str | Path) -> str:
    done = subprocess.run(
        [BUILDER.interpreter, TINY_MODELS, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def convert(source: Path, output: Path) -> None:
    await convert_model(
        ImportRequest(
            source=inspect_source(source),
            output=output,
            builder=BUILDER,
            precision="fp16",
            check=False,
        )
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_every_architecture(kind: str, tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    run_tiny_models("make", kind, source)
    await convert(source, output)
    agreement = json.loads(run_tiny_models("compare", source, output))
    assert [same for same, _ in agreement] == [total for _, total in agreement]


@pytest.mark.parametrize("kind", ["llama", "llama3.1", "qwen2", "qwen3"])
async def test_every_architecture_of_gguf_files(kind: str, tmp_path: Path) -> None:
    # Compared with the Hugging Face directory of the same weights: transformers reads both.
    run_tiny_models("make", kind, tmp_path / "source")
    run_tiny_models("make-gguf", kind, tmp_path / "model.gguf")
    await convert(tmp_path / "model.gguf", tmp_path / "output")
    agreement = json.loads(run_tiny_models("compare", tmp_path / "source", tmp_path / "output"))
    assert [same for same, _ in agreement] == [total for _, total in agreement]
