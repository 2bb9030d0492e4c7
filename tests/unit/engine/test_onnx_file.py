"""Reading ONNX files that the onnx package has written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundry_api.engine.models.onnx_file import InvalidOnnx, read_external_data, read_outputs

if TYPE_CHECKING:
    from pathlib import Path


def weights(name: str, **places: object) -> onnx.TensorProto:
    """A tensor whose bytes lie in another file, if places say where."""
    tensor = onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    if places:
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in places.items():
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def model(*tensors: onnx.TensorProto) -> bytes:
    graph = onnx.helper.make_graph([], "graph", [], [], initializer=tensors)
    return bytes(onnx.helper.make_model(graph).SerializeToString())


def read_files(path: Path, content: bytes) -> dict[str, int]:
    path.write_bytes(content)
    return read_external_data(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def test_external_files_are_returned_with_their_needed_sizes(path: Path) -> None:
    content = model(
        weights("inside"),
        weights("a", location="model.onnx.data", offset=0, length=8),
        weights("b", location="model.onnx.data", offset=4096, length=8),
        weights("c", location="other.bin"),
    )
    assert read_files(path, content) == {"model.onnx.data": 4104, "other.bin": 0}


def test_a_graph_with_inline_weights_needs_no_file(path: Path) -> None:
    assert read_files(path, model(weights("inside"))) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"weights",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"\x08",
        b"\x80" * 20,
        b"\x3b\x00",
        model(weights("a"))[:-3],
    ],
)
def test_a_file_that_is_not_a_graph_is_rejected(path: Path, content: bytes) -> None:
    with pytest.raises(InvalidOnnx):
        read_files(path, content)


def test_a_file_name_that_is_too_long_is_rejected(path: Path) -> None:
    with pytest.raises(InvalidOnnx, match="longer than 4096 bytes"):
        read_files(path, model(weights("a", location="x" * 5000)))


@given(st.binary(max_size=300), st.integers(0, 300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_random_bytes_raise_only_invalid_onnx(path: Path, noise: bytes, at: int) -> None:
    good = model(weights("a", location="model.onnx.data", offset=0, length=8))
    for content in (noise, good[:at] + noise + good[at:]):
        try:
            read_files(path, content)
        except InvalidOnnx:
            continue


def test_the_outputs_of_a_graph_are_returned(path: Path) -> None:
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, "n"])
        for name in ("logits", "hidden_states")
    ]
    graph = onnx.helper.make_graph([], "graph", values[:1], values, initializer=[weights("w")])
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    assert read_outputs(path) == {"logits", "hidden_states"}


def test_reading_outputs_rejects_a_file_that_is_not_a_graph(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(InvalidOnnx):
        read_outputs(path)
