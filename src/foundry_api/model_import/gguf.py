"""Checks whether a GGUF file can be converted, from its header."""

# The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The file is of unknown
# origin: every count and length in it is checked before it is used.

from __future__ import annotations

import hashlib
import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from foundry_api.model_import.supported import (
    GGUF_ARCHITECTURES,
    GGUF_PRE_TOKENIZERS,
    make_unsupported_error,
)
from foundry_api.model_import.types import ModelSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["GgufHeader", "InvalidGguf", "inspect_gguf", "read_header"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
LFS_POINTER = b"version https://git-lfs.github.com/spec/"

# Limits far above what models have: a vocabulary of 300,000 tokens makes a header of 10 MB.
MAX_HEADER_BYTES = 256 * 2**20
MAX_ENTRIES = 10_000
MAX_TENSORS = 200_000
MAX_STRING_BYTES = 16 * 2**20
MAX_DIMENSIONS = 8
MAX_NESTED_ARRAYS = 4
# A tensor with more elements than this is damage. The product of sizes must not grow without limit.
MAX_ELEMENTS = 2**48

_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip

# Elements and bytes of a block of each type that the converter can read.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 30: (1, 2),  # F32, F16, BF16
    2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),  # Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),  # Q2_K to Q6_K
}  # fmt: skip
_UNSUPPORTED_NAMES = {
    16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip

# Of Llama 3.1 and later: by how much each frequency is divided.
ROPE_FACTORS = "rope_freqs.weight"

# `model-00001-of-00003.gguf`
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)


class InvalidGguf(ValueError):
    """The file is not a complete GGUF file. The message has no full stop."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """The place of a tensor in the section of the file with the weights."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What stands before the weights.

    Attributes:
        metadata: The values; of an array its length.
        tensors: The places of the weights.
        data_start: Where the section with the weights begins.
        digest: A digest of the header's bytes.
    """

    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]
    data_start: int
    digest: str


def inspect_gguf(path: Path) -> ModelSource:
    """Read a header; ModelSourceUnsupported lists everything that cannot be converted."""
    try:
        status = path.stat()
        header = read_header(path)
    except InvalidGguf as error:
        raise make_unsupported_error(path, [f"it is not a GGUF file: {error}"]) from error
    except OSError as error:
        raise make_unsupported_error(path, [f"it cannot be read ({error.strerror})"]) from error
    architecture = str(header.metadata.get("general.architecture"))
    problems = [
        *_check_shards(path, header),
        *_check_architecture(architecture, header),
        *_check_tokenizer(header),
        *_check_tensors(header, status.st_size),
    ]
    if problems:
        raise make_unsupported_error(path, problems)
    return ModelSource(
        path=path,
        kind="gguf",
        architecture=GGUF_ARCHITECTURES[architecture],
        context_length=header.metadata[f"{architecture}.context_length"],
        parameters=sum(math.prod(tensor.shape) for tensor in header.tensors),
        head_size=header.metadata.get(f"{architecture}.attention.key_length"),
        splitting=header.metadata["tokenizer.ggml.pre"],
        has_rope_factors=_has_rope_factors(header),
        # The weights are too large to hash: their size and time stand for them.
        digest=hashlib.sha256(
            f"{header.digest} {status.st_size} {status.st_mtime_ns}".encode()
        ).hexdigest()[:32],
    )


def read_header(path: Path) -> GgufHeader:
    """Read a file's header; raises InvalidGguf or OSError."""
    with path.open("rb") as file:
        reader = _Reader(file)
        magic = reader.read(len(MAGIC))
        if magic != MAGIC:
            rest = file.read(len(LFS_POINTER) - len(MAGIC))
            if magic + rest == LFS_POINTER:
                raise InvalidGguf(
                    "it is a pointer of Git LFS; get the file itself with `git lfs pull`"
                )
            raise InvalidGguf("it does not start with GGUF")
        version = reader.read_number("<I")
        if version not in VERSIONS:
            kind = "big-endian" if version in {v << 24 for v in VERSIONS} else f"version {version}"
            raise InvalidGguf(f"it is {kind}; versions 2 and 3 are supported")
        tensor_count, entry_count = reader.read_number("<Q"), reader.read_number("<Q")
        if tensor_count > MAX_TENSORS or entry_count > MAX_ENTRIES:
            raise InvalidGguf(f"its header claims {tensor_count} tensors and {entry_count} values")
        metadata: dict[str, Any] = {}
        for _ in range(entry_count):
            name = reader.read_string()
            metadata[name] = reader.read_value(reader.read_number("<I"))
        tensors = tuple(_read_tensor(reader) for _ in range(tensor_count))
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= MAX_STRING_BYTES:
            raise InvalidGguf(f"its general.alignment is {alignment}")
        data_start = -(-reader.position // alignment) * alignment
    return GgufHeader(metadata, tensors, data_start, reader.hasher.hexdigest())


class _Reader:
    """Reads values, up to MAX_HEADER_BYTES."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.position = 0
        self.hasher = hashlib.sha256()

    def read(self, length: int) -> bytes:
        self.position += length
        if self.position > MAX_HEADER_BYTES:
            raise InvalidGguf(f"its header is longer than {MAX_HEADER_BYTES} bytes")
        content = self._file.read(length)
        if len(content) < length:
            raise InvalidGguf("it ends within its header: the copy may be incomplete")
        self.hasher.update(content)
        return content

    def read_number(self, code: str) -> Any:
        return struct.unpack(code, self.read(struct.calcsize(code)))[0]

    def read_string(self) -> str:
        length = self.read_number("<Q")
        if length > MAX_STRING_BYTES:
            raise InvalidGguf(f"a text in its header has {length} bytes")
        return self.read(length).decode("utf-8", "replace")

    def read_value(self, kind: int, depth: int = 0) -> Any:
        """Read a value. Of an array only the length is kept: a vocabulary is large."""
        if kind == _STRING:
            return self.read_string()
        if kind in _NUMBERS:
            return self.read_number(_NUMBERS[kind])
        if kind != _ARRAY or depth > MAX_NESTED_ARRAYS:
            raise InvalidGguf(f"its header has a value of the unknown type {kind}")
        element, count = self.read_number("<I"), self.read_number("<Q")
        if element in _NUMBERS:
            self.read(count * struct.calcsize(_NUMBERS[element]))
        else:
            # Every element has at least 8 bytes, so the limit of `read` ends this loop.
            for _ in range(count):
                self.read_value(element, depth + 1)
        return count


def _read_tensor(reader: _Reader) -> GgufTensor:
    name = reader.read_string()
    dimensions = reader.read_number("<I")
    if dimensions > MAX_DIMENSIONS:
        raise InvalidGguf(f"its tensor {name} has {dimensions} dimensions")
    shape = tuple(reader.read_number("<Q") for _ in range(dimensions))
    if math.prod(shape) > MAX_ELEMENTS:
        raise InvalidGguf(f"its tensor {name} has the shape {shape}")
    return GgufTensor(name, shape, reader.read_number("<I"), reader.read_number("<Q"))


def _check_shards(path: Path, header: GgufHeader) -> Iterator[str]:
    count = header.metadata.get("split.count", 1)
    match = _SHARD.search(path.name)
    count = int(match[1]) if match and count == 1 else count
    if count != 1:
        yield (
            f"it is one of {count} parts (split.count): join them first with llama.cpp's "
            "`llama-gguf-split --merge`"
        )


def _check_architecture(architecture: str, header: GgufHeader) -> Iterator[str]:
    metadata = header.metadata
    if architecture not in GGUF_ARCHITECTURES:
        names = ", ".join(sorted(GGUF_ARCHITECTURES))
        yield (
            f"its general.architecture is {architecture}; supported in GGUF files are {names}. "
            "Take the model's Hugging Face directory instead"
        )
        return
    length = metadata.get(f"{architecture}.context_length")
    if not isinstance(length, int) or length <= 0:
        yield f"it has no {architecture}.context_length"
    if metadata.get(f"{architecture}.expert_count", 0):
        yield f"it has {architecture}.expert_count: mixtures of experts are not supported"
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none" or (_has_rope_factors(header) and architecture != "llama"):
        kind = f"rope.scaling.type is {scaling}" if scaling != "none" else f"{ROPE_FACTORS} is set"
        yield (
            f"its positions are scaled ({kind}), which the converter of GGUF files does not read. "
            "Take the model's Hugging Face directory instead"
        )


def _has_rope_factors(header: GgufHeader) -> bool:
    return any(tensor.name == ROPE_FACTORS for tensor in header.tensors)


def _check_tokenizer(header: GgufHeader) -> Iterator[str]:
    metadata = header.metadata
    model, splitting = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if model != "gpt2":
        yield f"its tokenizer.ggml.model is {model}; only gpt2 (byte-level BPE) is supported"
    elif splitting not in GGUF_PRE_TOKENIZERS:
        yield (
            f"its tokenizer.ggml.pre is {splitting}: how it splits text is not known here; "
            f"known are {', '.join(sorted(GGUF_PRE_TOKENIZERS))}"
        )
    if not metadata.get("tokenizer.chat_template"):
        yield (
            "it has no tokenizer.chat_template: it may be a base model; take the one for chat, "
            "often called Instruct"
        )
    if not isinstance(metadata.get("tokenizer.ggml.eos_token_id"), int):
        yield "it has no tokenizer.ggml.eos_token_id, the token that ends an answer"


def _check_tensors(header: GgufHeader, size: int) -> Iterator[str]:
    if not header.tensors:
        yield "it has no weights: it may be a file with a vocabulary only"
    needed = 0
    for tensor in header.tensors:
        if tensor.type not in _BLOCKS:
            name = _UNSUPPORTED_NAMES.get(tensor.type, f"number {tensor.type}")
            yield (
                f"its weights are of type {name} ({tensor.name}), which is not supported; "
                "take a file of type Q4_K_M, Q8_0 or F16"
            )
            return
        elements, length = _BLOCKS[tensor.type]
        end = header.data_start + tensor.offset + math.prod(tensor.shape) // elements * length
        needed = max(needed, end)
    if size < needed:
        yield f"it has {size} bytes and needs {needed}: the copy may be incomplete"
