"""A transcription model with known answers: the scripted model with the interface of Whisper.

The engine computes the spectrogram of a file, runs the encoder on it, and has the decoder continue
`<|startoftranscript|><|LANGUAGE|><|transcribe|><|notimestamps|>`. This encoder only detects whether
there is any sound, and passes that in the cross-attention cache. The decoder recites the script of
the language, or the first script if there is no sound.

    build_transcriber(tmp_path / "transcriber")
    write_tone(tmp_path / "tone.wav")
    ...                                                     # run the engine
    assert text == get_transcript("en")
"""

from __future__ import annotations

import json
import math
import struct
import wave
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import TensorProto, checker, helper, numpy_helper

from .graph import IR_VERSION, OPSET, make_scripted_model, node
from .scripts import Script
from .tokenizer import (
    END_OF_ANSWER,
    FIRST_KEYWORD,
    make_tokenizer_config_without_template,
    make_tokenizer_json,
    vocabulary_size,
)

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

SILENCE: Final = "(silence)"
SCRIPTS: Final = (
    Script("<|nothing|>", SILENCE),
    Script("<|en|><|transcribe|>", "Good morning."),
    Script("<|de|><|transcribe|>", "Schönen guten Morgen."),
)
SAMPLE_RATE: Final = 16_000
MELS: Final = 80
FRAMES: Final = 3000
"""Whisper's input of 30 seconds."""

HOPS: Final = 1500
LOUD: Final = -1.0
"""A value above the spectrogram's minimum, which is -1.5."""


def build_transcriber(directory: Path) -> None:
    """Write the model into `directory`, which is created if it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save_model(make_encoder(), directory / "encoder.onnx")
    onnx.save_model(make_decoder(), directory / "decoder.onnx")
    files = {
        "genai_config.json": _make_genai_config(),
        "audio_processor_config.json": _make_processor_config(),
        "tokenizer.json": make_tokenizer_json(SCRIPTS),
        "tokenizer_config.json": make_tokenizer_config_without_template(),
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def make_encoder() -> ModelProto:
    """Make an encoder whose outputs are all 1 for sound and all 0 for silence."""
    graph = helper.make_graph(
        [
            node("ReduceMax", ["audio_features"], ["loudest"], keepdims=0),
            node("Greater", ["loudest", "loud"], ["has_sound"]),
            node("Cast", ["has_sound"], ["sound"], to=TensorProto.FLOAT),
            node("Expand", ["sound", "states_shape"], ["encoder_hidden_states"]),
            node("Expand", ["sound", "cache_shape"], ["present_key_cross_0"]),
            node("Expand", ["sound", "cache_shape"], ["present_value_cross_0"]),
        ],
        "scripted_encoder",
        inputs=[_describe_floats("audio_features", ["batch", MELS, FRAMES])],
        outputs=[
            _describe_floats("encoder_hidden_states", ["batch", HOPS, 1]),
            _describe_floats("present_key_cross_0", ["batch", 1, HOPS, 1]),
            _describe_floats("present_value_cross_0", ["batch", 1, HOPS, 1]),
        ],
        initializer=[
            numpy_helper.from_array(np.array(LOUD, np.float32), "loud"),
            numpy_helper.from_array(np.array([1, HOPS, 1], np.int64), "states_shape"),
            numpy_helper.from_array(np.array([1, 1, HOPS, 1], np.int64), "cache_shape"),
        ],
    )
    return _make_checked_model(graph)


def _make_checked_model(graph: Any) -> ModelProto:
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    return model


def make_decoder() -> ModelProto:
    """Make a scripted model that recites the first script instead of the language's in silence."""
    model = make_scripted_model(SCRIPTS)
    graph = model.graph
    graph.input[0].name = "prompt_ids"
    graph.input.extend(
        [
            _describe_floats("past_key_cross_0", [1, 1, HOPS, 1]),
            _describe_floats("past_value_cross_0", [1, 1, HOPS, 1]),
        ]
    )
    front = [
        node("ReduceMax", ["past_value_cross_0"], ["sound"], keepdims=0),
        node("Less", ["sound", "half"], ["is_silent"]),
        node("Greater", ["prompt_ids", "silence"], ["is_language"]),
        node("And", ["is_silent", "is_language"], ["is_silent_language"]),
        node("Where", ["is_silent_language", "silence", "prompt_ids"], ["input_ids"]),
    ]
    for position, added in enumerate(front):
        graph.node.insert(position, added)
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(0.5, np.float32), "half"),
            numpy_helper.from_array(np.array(FIRST_KEYWORD, np.int64), "silence"),
        ]
    )
    checker.check_model(model, full_check=True)
    return model


def write_tone(path: Path, *, seconds: float = 0.5, volume: float = 0.5) -> Path:
    """Write a WAV file with a tone of 440 Hz, or silence at volume 0."""
    count = int(seconds * SAMPLE_RATE)
    samples = (
        int(32767 * volume * math.sin(2 * math.pi * 440 * index / SAMPLE_RATE))
        for index in range(count)
    )
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(struct.pack(f"<{count}h", *samples))
    return path


def write_sounds(path: Path, *sounds: tuple[float, float]) -> Path:
    """Write a WAV file of several tones, each with a duration in seconds and a volume."""
    tone = 32767 * np.sin(np.arange(40) * (2 * math.pi / 40))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        for seconds, volume in sounds:
            samples = np.resize(tone * volume, int(seconds * SAMPLE_RATE))
            file.writeframes(samples.astype("<i2").tobytes())
    return path


def make_silent_mp3(seconds: float) -> bytes:
    """Make a silent MPEG-1 layer III file at 32 kbit/s and 44.1 kHz, with an ID3 tag."""
    size, per_frame_s = 144 * 32_000 // 44_100, 1152 / 44_100
    frame = b"\xff\xfb\x10\x00".ljust(size, b"\0")
    return b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + frame * round(seconds / per_frame_s)


def make_flac_header(seconds: float) -> bytes:
    """Make the header of a FLAC file, which has its duration."""
    packed = SAMPLE_RATE << 44 | 15 << 36 | int(seconds * SAMPLE_RATE)
    return b"fLaC\x80\0\0\x22" + bytes(10) + packed.to_bytes(8, "big") + bytes(16)


def get_transcript(language: str = "en") -> str:
    """Return the model's transcript of any sound in a language."""
    return next(script.text for script in SCRIPTS if script.keyword.startswith(f"<|{language}|>"))


def _describe_floats(name: str, shape: list[int | str]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _make_genai_config() -> dict[str, Any]:
    session = {"intra_op_num_threads": 1, "provider_options": []}
    shape = {"head_size": 1, "hidden_size": 1, "num_attention_heads": 1, "num_hidden_layers": 1}
    return {
        "model": {
            "type": "whisper",
            "bos_token_id": END_OF_ANSWER,
            "eos_token_id": END_OF_ANSWER,
            "pad_token_id": END_OF_ANSWER,
            "vocab_size": vocabulary_size(SCRIPTS),
            "context_length": 448,
            "encoder": {
                "filename": "encoder.onnx",
                "session_options": session,
                **shape,
                "inputs": {"audio_features": "audio_features"},
                "outputs": {
                    "encoder_hidden_states": "encoder_hidden_states",
                    "cross_present_key_names": "present_key_cross_%d",
                    "cross_present_value_names": "present_value_cross_%d",
                },
            },
            "decoder": {
                "filename": "decoder.onnx",
                "session_options": session,
                **shape,
                "num_key_value_heads": 1,
                "inputs": {
                    "input_ids": "prompt_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                    "cross_past_key_names": "past_key_cross_%d",
                    "cross_past_value_names": "past_value_cross_%d",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"do_sample": False, "max_length": 448, "past_present_share_buffer": False},
    }


def _make_processor_config() -> dict[str, Any]:
    window = {"n_fft": 400, "hop_length": 160}
    steps = [
        {"name": "audio_decoder", "type": "AudioDecoder"},
        {"name": "STFT", "type": "STFTNorm", "attrs": {**window, "frame_length": 400}},
        {
            "name": "log_mel_spectrogram",
            "type": "LogMelSpectrum",
            "attrs": {**window, "chunk_size": 30, "n_mel": MELS},
        },
    ]
    return {"feature_extraction": {"sequence": [{"operation": step} for step in steps]}}
