"""A vision model with known answers: the scripted model with the interface of Phi-3-vision.

The engine decodes the image, runs the vision graph on its pixels, and has the embedding graph
replace the -1 of the image in the prompt by its features. This vision graph only computes the
brightness of the image. The embedding of a token is its number, and that of an image is a keyword,
so the decoder recites the script for a light image, a dark image or no image.

    build_vision_model(tmp_path / "vision")
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
from .graph import IR_VERSION, OPSET, make_scripted_model, node
from .scripts import Script
from .tokenizer import FIRST_KEYWORD, make_tokenizer_config, make_tokenizer_json

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
"""Side of the images in pixels; the engine scales them to crops."""

TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<|image_1|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_vision_model(directory: Path) -> None:
    """Write the model into `directory`, which is created if it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save_model(make_vision_graph(), directory / "vision.onnx")
    onnx.save_model(make_embedding_graph(), directory / "embedding.onnx")
    onnx.save_model(make_decoder(), directory / "model.onnx")
    files = {
        "genai_config.json": _make_config(),
        "processor_config.json": _make_processor_config(),
        "tokenizer.json": make_tokenizer_json(SCRIPTS),
        "tokenizer_config.json": {**make_tokenizer_config(), "chat_template": TEMPLATE},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def make_vision_graph() -> ModelProto:
    """Make a graph whose features all are the brightness of the image.

    Phi-3-vision has 144 features for each crop and for the full image, and 12 more at the end of
    each row of crops.
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
            _describe_floats("pixel_values", ["images", "crops_and_whole", 3, CROP, CROP]),
            helper.make_tensor_value_info("image_sizes", TensorProto.INT64, ["images", 2]),
        ],
        outputs=[_describe_floats("image_features", ["features", 1])],
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
    return _make_checked_model(graph)


def make_embedding_graph() -> ModelProto:
    """Make a graph that embeds a token as its number and an image as the number of a keyword."""
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
            _describe_floats("image_features", ["features", 1]),
        ],
        outputs=[_describe_floats("inputs_embeds", [1, "sequence", 1])],
        initializer=[
            numpy_helper.from_array(np.full((1, 1), -9, np.float32), "darkness"),
            numpy_helper.from_array(np.array(0.5, np.float32), "half"),
            numpy_helper.from_array(np.array(0, np.int32), "zero"),
            numpy_helper.from_array(np.array(FIRST_KEYWORD + 1, np.int32), "dark"),
            numpy_helper.from_array(np.array(FIRST_KEYWORD + 2, np.int32), "light"),
            numpy_helper.from_array(np.array([2], np.int64), "last_axis"),
        ],
    )
    return _make_checked_model(graph)


def make_decoder() -> ModelProto:
    """Make a scripted model whose input embeddings are the numbers of the tokens."""
    model = make_scripted_model(SCRIPTS)
    graph = model.graph
    graph.input[0].CopyFrom(_describe_floats("inputs_embeds", [1, "sequence", 1]))
    front = [
        node("Squeeze", ["inputs_embeds", "last_axis"], ["numbers"]),
        node("Cast", ["numbers"], ["input_ids"], to=TensorProto.INT64),
    ]
    for position, added in enumerate(front):
        graph.node.insert(position, added)
    graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), "last_axis"))
    checker.check_model(model, full_check=True)
    return model


def write_image(path: Path, *, level: int) -> Path:
    """Write the image of `make_png` to a file."""
    path.write_bytes(make_png(level=level))
    return path


def make_png(*, level: int) -> bytes:
    """Make a PNG image in one shade of grey, from 0 for black to 255 for white."""

    def make_chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes([level] * 3 * SIDE)) * SIDE
    parts = (
        make_chunk(b"IHDR", header),
        make_chunk(b"IDAT", zlib.compress(rows)),
        make_chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _make_checked_model(graph: GraphProto) -> ModelProto:
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    return model


def _describe_floats(name: str, shape: list[int | str]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _make_config() -> dict[str, Any]:
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


def _make_processor_config() -> dict[str, Any]:
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
