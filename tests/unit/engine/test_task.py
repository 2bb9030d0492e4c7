"""Detecting the task of a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foundry_api.engine.models.task import (
    CHAT,
    EMBEDDINGS,
    SPEECH,
    VISION,
    detect_task,
    is_embedding_model,
)
from foundry_api.engine.models.validate import find_problems
from foundry_api.engine.process import get_demo_models
from service.helpers import make_model_directory
from support.scripted_model import build
from support.scripted_model.audio import build_transcriber
from support.scripted_model.embeddings import build_embedder
from support.scripted_model.vision import build_vision_model

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_demo_model_is_for_chat() -> None:
    assert detect_task(Path(get_demo_models()[0].path)) == CHAT


def test_a_chat_model_cannot_embed(tmp_path: Path) -> None:
    build(tmp_path)
    assert (detect_task(tmp_path), is_embedding_model(tmp_path)) == (CHAT, False)


def test_a_graph_with_hidden_states_can_embed(tmp_path: Path) -> None:
    build_embedder(tmp_path)
    assert (detect_task(tmp_path), is_embedding_model(tmp_path)) == (EMBEDDINGS, True)


def test_a_graph_with_hidden_states_and_a_template_is_for_chat(tmp_path: Path) -> None:
    build_embedder(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert (detect_task(tmp_path), is_embedding_model(tmp_path)) == (CHAT, True)


def test_whisper_is_for_speech(tmp_path: Path) -> None:
    build_transcriber(tmp_path)
    assert (detect_task(tmp_path), is_embedding_model(tmp_path)) == (SPEECH, False)


def test_a_model_with_a_vision_part_is_for_vision(tmp_path: Path) -> None:
    build_vision_model(tmp_path)
    assert (detect_task(tmp_path), find_problems(tmp_path)) == (VISION, ())


@pytest.mark.parametrize("builder", [build_embedder, build_transcriber])
def test_only_chat_models_need_a_template(tmp_path: Path, builder: Callable[[Path], None]) -> None:
    builder(tmp_path)
    assert find_problems(tmp_path) == ()


def test_an_unreadable_model_counts_as_a_chat_model(tmp_path: Path) -> None:
    """It cannot be registered anyway, and that error says more."""
    assert (detect_task(tmp_path), is_embedding_model(tmp_path)) == (CHAT, None)
    make_model_directory(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    (tmp_path / "tokenizer_config.json").write_text("[]", encoding="utf-8")
    assert (detect_task(tmp_path), is_embedding_model(tmp_path)) == (CHAT, None)
