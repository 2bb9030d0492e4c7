"""The digest of a model directory: which changes of its files need a new registration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foundry_api.engine.models.directory import compute_digest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "genai_config.json").write_text('{"model": {}}', encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    (tmp_path / "README.md").write_text("A model.", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "MODEL_CARD.MD",
        "LICENSE",
        "LICENSE.txt",
        "LICENSE-MIT",
        "Notice.txt",
        "README_zh.txt",
        "COPYING",
        "paper.pdf",
        ".gitattributes",
        ".DS_Store",
    ],
)
def test_documents_do_not_count(directory: Path, name: str) -> None:
    before = compute_digest(directory)
    (directory / name).write_text("More about the model.", encoding="utf-8")
    assert compute_digest(directory) == before


@pytest.mark.parametrize(
    "name",
    [
        "genai_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "vocab.txt",
        "merges.txt",
        "model.onnx",
        "model.onnx.data",
        "license.onnx",
        "notices.bin",
        "readmeindex",
    ],
)
def test_files_that_an_engine_may_read_count(directory: Path, name: str) -> None:
    before = compute_digest(directory)
    (directory / name).write_text('{"model": {"type": "llama"}}', encoding="utf-8")
    assert compute_digest(directory) != before


def test_the_configuration_counts_with_equal_size(directory: Path) -> None:
    before = compute_digest(directory)
    (directory / "genai_config.json").write_text('{"model": []}', encoding="utf-8")
    assert compute_digest(directory) != before


def test_no_directory_has_no_digest(tmp_path: Path) -> None:
    assert compute_digest(tmp_path / "missing") is None
    assert compute_digest(tmp_path) is None
