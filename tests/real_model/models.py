"""The real models, as `python3 dev.py real-model` builds them, and variants of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

MODELS = Path(__file__).resolve().parents[2] / ".models"
CHAT = "smollm2"
CHAT_MODEL = MODELS / "smollm2-135m-instruct"
CONTEXT_LENGTH = 8192
SPEECH_MODEL = MODELS / "whisper-base"

TIMEOUT_S = 900.0  # the longest prompt takes a minute on an idle machine


def copy_with_config(target: Path, **values: Any) -> Path:
    """Make a variant of the chat model with other values in `genai_config.json`."""
    target.mkdir()
    for file in CHAT_MODEL.iterdir():
        os.link(file, target / file.name)
    path = target / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model"].update(values)
    path.unlink()  # the others are links to the model's own files
    path.write_text(json.dumps(config), encoding="utf-8")
    return target
