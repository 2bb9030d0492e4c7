"""Detects the task of a model from its files: chat, vision, transcription or embeddings."""

# The engine uses the task of the catalog's entry: it refuses images and audio for models of other
# tasks. It embeds with any graph that has an output `hidden_states` (probed on 1.2.4, 2.0.1 and
# 2.2.1).

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from foundry_api.engine.models.directory import is_inside, list_graphs, read_configuration
from foundry_api.engine.models.onnx_file import InvalidOnnx, read_outputs
from foundry_api.storage.private_file import read_file
from foundry_api.types.errors import ModelRegistrationFailed
from foundry_api.wire.errors import NOT_JSON

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "CHAT",
    "EMBEDDINGS",
    "MAX_TOKENIZER_BYTES",
    "SPEECH",
    "TEMPLATE",
    "TOKENIZER_CONFIG",
    "VISION",
    "Speech",
    "detect_speech",
    "detect_task",
    "has_template",
    "is_embedding_model",
]

# The tasks that the engine knows (session.cc, sdk_v2).
CHAT: Final = "chat-completion"
VISION: Final = "vision-language-chat"
SPEECH: Final = "automatic-speech-recognition"
EMBEDDINGS: Final = "embeddings"

MAX_TOKENIZER_BYTES: Final = 256 * 2**20
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
HIDDEN_STATES: Final = "hidden_states"

# `model.type` of the models that ONNX Runtime GenAI transcribes with.
_NEMOTRON: Final = "nemotron_speech"
_SPEECH_TYPES = frozenset({"whisper", _NEMOTRON})

# `english` is a Whisper for English only. It has a vocabulary of this size; the others have at
# least one token more.
Speech = Literal["whisper", "english", "nemotron"]
ENGLISH_VOCABULARY: Final = 51864


class _TokenizerConfig(msgspec.Struct):
    chat_template: Any = None


_TOKENIZER_DECODER = msgspec.json.Decoder(_TokenizerConfig)


def detect_task(directory: Path) -> str:
    """Detect the task to register a directory with."""
    try:
        model = read_configuration(directory).model
    except ModelRegistrationFailed:
        return CHAT
    if model.get("type") in _SPEECH_TYPES:
        return SPEECH
    if isinstance(model.get("vision"), dict):
        return VISION
    # A model with both hidden states and a chat template is registered for chat: it can embed then
    # too.
    return EMBEDDINGS if is_embedding_model(directory) and not has_template(directory) else CHAT


def detect_speech(directory: Path) -> Speech | None:
    """Detect the kind of a speech model; None if it is no speech model or that is unknown."""
    try:
        model = read_configuration(directory).model
    except ModelRegistrationFailed:
        return None
    if model.get("type") not in _SPEECH_TYPES:
        return None
    if model["type"] == _NEMOTRON:
        return "nemotron"
    return "english" if model.get("vocab_size") == ENGLISH_VOCABULARY else "whisper"


def is_embedding_model(directory: Path) -> bool | None:
    """Return whether the engine can embed with the model; None if that is unknown."""
    try:
        decoder = {"decoder": read_configuration(directory).model.get("decoder")}
        return any(
            HIDDEN_STATES in read_outputs(directory / graph) for graph in list_graphs(decoder)
        )
    except (ModelRegistrationFailed, InvalidOnnx, OSError):
        return None


def has_template(directory: Path) -> bool:
    if is_inside(directory, TEMPLATE):
        return True
    try:
        content = read_file(directory / TOKENIZER_CONFIG, MAX_TOKENIZER_BYTES)
        return bool(_TOKENIZER_DECODER.decode(content).chat_template)
    except (OSError, *NOT_JSON):
        return False
