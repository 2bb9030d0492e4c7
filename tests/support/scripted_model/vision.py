"""A model that sees, and whose every answer is known: Phi-3-vision's shape around the scripted one.

The engine makes pixels of the image, runs the vision graph on them, and has the embedding graph put
its features where the prompt has -1 for the image. This vision graph tells only how light the image
is; this embedding leaves a token at its number, and makes keywords of the image's: so the decoder
recites what it is to say of light, of dark, or of nothing at all.

    build_seer(tmp_path / "seer")
    write_image(tmp_path / "light.png", level=255)
    ...                                                     # run the engine
    assert text == LIGHT
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import TensorProto, checker, helper, numpy_helper

from .directory import make_genai_config
from .graph import IR_VERSION, OPSET, node, scripted_model
from .scripts import Script
from .tokenizer import FIRST_KEYWORD, tokenizer_config_json, tokenizer_json

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import GraphProto, ModelProto

NOTHING: Final = "I see nothing."
DARK: Final = "It is dark."
LIGHT: Final = "It is light."
SCRIPTS: Final = (
    Script("say-what-you-see", NOTHING),
    Script("<dark>", DARK),
    Script("<light>", LIGHT),
)
CROP: Final = 336
SIDE: Final = 8
"""Of the images that are written here; they are scaled to crops."""

TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<|image_1|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_seer(directory: Path) -> None:
    """Write the model into `directory`, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save_model(vision_model(), directory / "vision.onnx")
    onnx.save_model(embedding_model(), directory / "embedding.onnx")
    onnx.save_model(decoder_model(), directory / "model.onnx")
    files = {
        "genai_config.json": _config(),
        "processor_config.json": _processor(),
        "tokenizer.json": tokenizer_json(SCRIPTS),
        "tokenizer_config.json": {**tokenizer_config_json(), "chat_template": TEMPLATE},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def vision_model() -> ModelProto:
    """Says in every feature how light the image is.

    Phi-3-vision makes 144 features of each crop and of the whole, and 12 more to end a row of them.
    """
    graph = helper.make_graph(
        [
            node("ReduceMax", ["pixel_values"], ["lightness"], keepdims=0),
            node("Div", ["image_sizes", "crop"], ["crops"]),
            node("ReduceProd", ["crops"], ["count"], keepdims=0),
            node("Gather", ["crops", "first"], ["rows"], axis=1),
            node("ReduceSum", ["rows"], ["row_count"], keepdims=0),
            node("Mul", ["count", "of_crop"], ["of_crops"]),
            node("Mul", ["row_count", "of_row"], ["of_rows"]),
            node("Add", ["of_crops", "of_rows"], ["of_both"]),
            node("Add", ["of_both", "of_whole"], ["total"]),
            node("Concat", ["total", "one"], ["shape"], axis=0),
            node("Expand", ["lightness", "shape"], ["image_features"]),
        ],
        "scripted_vision",
        inputs=[
            _floats("pixel_values", ["images", "crops_and_whole", 3, CROP, CROP]),
            helper.make_tensor_value_info("image_sizes", TensorProto.INT64, ["images", 2]),
        ],
        outputs=[_floats("image_features", ["features", 1])],
        initializer=[
            numpy_helper.from_array(np.array(values, np.int64), name)
            for name, values in {
                "crop": CROP,
                "first": [0],
                "of_crop": [144],
                "of_row": [12],
                "of_whole": [144 + 1 + 12],
                "one": [1],
            }.items()
        ],
    )
    return _checked(graph)


def embedding_model() -> ModelProto:
    """A token's number, and that of a keyword for what stands for the image."""
    graph = helper.make_graph(
        [
            node("Concat", ["darkness", "image_features"], ["levels"], axis=0),
            node("ReduceMax", ["levels"], ["lightest"], keepdims=0),
            node("Greater", ["lightest", "half"], ["is_light"]),
            node("Where", ["is_light", "light", "dark"], ["keyword"]),
            node("Less", ["input_ids", "zero"], ["is_image"]),
            node("Where", ["is_image", "keyword", "input_ids"], ["numbers"]),
            node("Cast", ["numbers"], ["states"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["states", "last_axis"], ["inputs_embeds"]),
        ],
        "scripted_embedding",
        inputs=[
            helper.make_tensor_value_info("input_ids", TensorProto.INT32, [1, "sequence"]),
            _floats("image_features", ["features", 1]),
        ],
        outputs=[_floats("inputs_embeds", [1, "sequence", 1])],
        initializer=[
            numpy_helper.from_array(np.full((1, 1), -9, np.float32), "darkness"),
            numpy_helper.from_array(np.array(0.5, np.float32), "half"),
            numpy_helper.from_array(np.array(0, np.int32), "zero"),
            numpy_helper.from_array(np.array(FIRST_KEYWORD + 1, np.int32), "dark"),
            numpy_helper.from_array(np.array(FIRST_KEYWORD + 2, np.int32), "light"),
            numpy_helper.from_array(np.array([2], np.int64), "last_axis"),
        ],
    )
    return _checked(graph)


def decoder_model() -> ModelProto:
    """The scripted model, whose tokens come as their numbers."""
    model = scripted_model(SCRIPTS)
    graph = model.graph
    graph.input[0].CopyFrom(_floats("inputs_embeds", [1, "sequence", 1]))
    front = [
        node("Squeeze", ["inputs_embeds", "last_axis"], ["numbers"]),
        node("Cast", ["numbers"], ["input_ids"], to=TensorProto.INT64),
    ]
    for at, each in enumerate(front):
        graph.node.insert(at, each)
    graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), "last_axis"))
    checker.check_model(model, full_check=True)
    return model


def write_image(path: Path, *, level: int) -> Path:
    """As `png`, in a file."""
    path.write_bytes(png(level=level))
    return path


def png(*, level: int) -> bytes:
    """A PNG of one shade of grey, from 0 for black to 255."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes([level] * 3 * SIDE)) * SIDE
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _checked(graph: GraphProto) -> ModelProto:
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    return model


def _floats(name: str, shape: list[int | str]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _config() -> dict[str, Any]:
    config = make_genai_config(SCRIPTS, context_length=8192)
    model = config["model"]
    del model["decoder"]["inputs"]["input_ids"]
    model["type"] = "phi3v"
    model["decoder"]["inputs"]["inputs_embeds"] = "inputs_embeds"
    model["vision"] = {
        "filename": "vision.onnx",
        "config_filename": "processor_config.json",
        "inputs": {"pixel_values": "pixel_values", "image_sizes": "image_sizes"},
        "outputs": {"image_features": "image_features"},
    }
    model["embedding"] = {
        "filename": "embedding.onnx",
        "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
        "outputs": {"inputs_embeds": "inputs_embeds"},
    }
    return config


def _processor() -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"name": "decode_image", "type": "DecodeImage", "attrs": {"color_space": "BGR"}},
        {"name": "convert_to_rgb", "type": "ConvertRGB"},
        {
            "name": "phi3_image_transform",
            "type": "Phi3ImageTransform",
            "attrs": {"num_crops": 1, "num_img_tokens": 144},
        },
    ]
    operations = [{"operation": {"domain": "com.microsoft.extensions", **step}} for step in steps]
    return {"processor": {"name": "image_processing", "transforms": operations}}
