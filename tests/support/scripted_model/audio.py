"""A transcription model whose every answer is known: Whisper's shape around the scripted model.

The engine makes a spectrogram of the file, runs the encoder on it, and has the decoder continue
`<|startoftranscript|><|LANGUAGE|><|transcribe|><|notimestamps|>`. This encoder tells only whether
anything is to be heard at all, through the cross attention's cache; this decoder recites the script
of the language, or the first one where it heard nothing.

    build_transcriber(tmp_path / "transcriber")
    write_tone(tmp_path / "tone.wav")
    ...                                                     # run the engine
    assert text == heard("en")
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

from .graph import IR_VERSION, OPSET, node, scripted_model
from .scripts import Script
from .tokenizer import (
    END_OF_ANSWER,
    FIRST_KEYWORD,
    tokenizer_json,
    vocabulary_size,
    without_template,
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
"""Half a minute, which is what Whisper looks at."""

HOPS: Final = 1500
LOUD: Final = -1.0
"""Above the spectrogram's floor, which is -1.5."""


def build_transcriber(directory: Path) -> None:
    """Write the model into `directory`, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save_model(encoder_model(), directory / "encoder.onnx")
    onnx.save_model(decoder_model(), directory / "decoder.onnx")
    files = {
        "genai_config.json": _genai_config(),
        "audio_processor_config.json": _processor(),
        "tokenizer.json": tokenizer_json(SCRIPTS),
        "tokenizer_config.json": without_template(),
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def encoder_model() -> ModelProto:
    """Marks in every number of its outputs whether the audio is more than silence."""
    graph = helper.make_graph(
        [
            node("ReduceMax", ["audio_features"], ["loudest"], keepdims=0),
            node("Greater", ["loudest", "loud"], ["is_heard"]),
            node("Cast", ["is_heard"], ["heard"], to=TensorProto.FLOAT),
            node("Expand", ["heard", "states_shape"], ["encoder_hidden_states"]),
            node("Expand", ["heard", "cache_shape"], ["present_key_cross_0"]),
            node("Expand", ["heard", "cache_shape"], ["present_value_cross_0"]),
        ],
        "scripted_encoder",
        inputs=[_floats("audio_features", ["batch", MELS, FRAMES])],
        outputs=[
            _floats("encoder_hidden_states", ["batch", HOPS, 1]),
            _floats("present_key_cross_0", ["batch", 1, HOPS, 1]),
            _floats("present_value_cross_0", ["batch", 1, HOPS, 1]),
        ],
        initializer=[
            numpy_helper.from_array(np.array(LOUD, np.float32), "loud"),
            numpy_helper.from_array(np.array([1, HOPS, 1], np.int64), "states_shape"),
            numpy_helper.from_array(np.array([1, 1, HOPS, 1], np.int64), "cache_shape"),
        ],
    )
    return _checked(graph)


def _checked(graph: Any) -> ModelProto:
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    return model


def decoder_model() -> ModelProto:
    """The scripted model, which takes the first script's keyword for a language's in silence."""
    model = scripted_model(SCRIPTS)
    graph = model.graph
    graph.input[0].name = "told_ids"
    graph.input.extend(
        [
            _floats("past_key_cross_0", [1, 1, HOPS, 1]),
            _floats("past_value_cross_0", [1, 1, HOPS, 1]),
        ]
    )
    front = [
        node("ReduceMax", ["past_value_cross_0"], ["heard"], keepdims=0),
        node("Less", ["heard", "half"], ["is_silent"]),
        node("Greater", ["told_ids", "silence"], ["is_language"]),
        node("And", ["is_silent", "is_language"], ["is_unheard"]),
        node("Where", ["is_unheard", "silence", "told_ids"], ["input_ids"]),
    ]
    for at, each in enumerate(front):
        graph.node.insert(at, each)
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(0.5, np.float32), "half"),
            numpy_helper.from_array(np.array(FIRST_KEYWORD, np.int64), "silence"),
        ]
    )
    checker.check_model(model, full_check=True)
    return model


def write_tone(path: Path, *, seconds: float = 0.5, volume: float = 0.5) -> Path:
    """A sound file: 440 Hz, or silence at volume 0."""
    count = int(seconds * SAMPLE_RATE)
    samples = (
        int(32767 * volume * math.sin(2 * math.pi * 440 * each / SAMPLE_RATE))
        for each in range(count)
    )
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(struct.pack(f"<{count}h", *samples))
    return path


def write_sounds(path: Path, *sounds: tuple[float, float]) -> Path:
    """A sound file of several stretches, each so many seconds long and so loud."""
    tone = 32767 * np.sin(np.arange(40) * (2 * math.pi / 40))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        for seconds, volume in sounds:
            samples = np.resize(tone * volume, int(seconds * SAMPLE_RATE))
            file.writeframes(samples.astype("<i2").tobytes())
    return path


def silent_mp3(seconds: float) -> bytes:
    """MPEG-1 layer III at 32 kbit/s and 44.1 kHz, with an ID3 tag before it and no sound in it."""
    size, per_frame_s = 144 * 32_000 // 44_100, 1152 / 44_100
    frame = b"\xff\xfb\x10\x00".ljust(size, b"\0")
    return b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + frame * round(seconds / per_frame_s)


def flac_head(seconds: float) -> bytes:
    """The beginning of a FLAC file, which says how long it is."""
    packed = SAMPLE_RATE << 44 | 15 << 36 | int(seconds * SAMPLE_RATE)
    return b"fLaC\x80\0\0\x22" + bytes(10) + packed.to_bytes(8, "big") + bytes(16)


def heard(language: str = "en") -> str:
    """What the model makes of a sound in a language."""
    return next(each.text for each in SCRIPTS if each.keyword.startswith(f"<|{language}|>"))


def _floats(name: str, shape: list[int | str]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _genai_config() -> dict[str, Any]:
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
                    "input_ids": "told_ids",
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


def _processor() -> dict[str, Any]:
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
