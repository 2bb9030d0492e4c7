"""WAV files, divided at silence into parts that a speech model hears in full.

Whisper listens to the first half minute of what it is given, and the engine drops the rest without
a word (probed on 2.2.1).
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["WINDOW_S", "WaveFile", "next_cut", "part_of", "read_wave"]

WINDOW_S = 30.0
"""What Whisper hears at a time."""

SEARCHED_S = 12.0
"""A part ends at the quietest moment of the last seconds of a window."""

SHORTEST_PART_S = 5.0
"""So much is left for the last part: a model makes up words for a few tenths of a second."""

BLOCK_S = 0.02
QUIET_BLOCKS = 15
COPY_BYTES = 64 * 1024

_PCM, _FLOAT, _A_LAW, _MU_LAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_MAGNITUDES = {
    _A_LAW: bytes((byte ^ 0x55) & 0x7F for byte in range(256)),
    _MU_LAW: bytes(~byte & 0x7F for byte in range(256)),
}
"""How loud a sample of telephony is, by its byte."""

_SIZES = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64), _A_LAW: (8,), _MU_LAW: (8,)}
_FORMAT = struct.Struct("<HHIIHH")
_CHUNK = struct.Struct("<4sI")
_UNKNOWN_SIZE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class WaveFile:
    """Where the sound of a WAV file is.

    Attributes:
        description: The content of its format chunk.
        encoding: 1 for integers, 3 for floating point, 6 and 7 for telephony, else compressed.
        rate: Frames per second.
        frame_bytes: Of a sample of every channel.
        sample_bits: Of one sample.
        start: Where the sound begins in the file.
        frames: How many frames there are.
    """

    description: bytes
    encoding: int
    rate: int
    frame_bytes: int
    sample_bits: int
    start: int
    frames: int

    @property
    def duration_s(self) -> float:
        """How long it lasts."""
        return self.frames / self.rate

    @property
    def is_divisible(self) -> bool:
        """Whether the samples can be read, so that silence can be found."""
        sizes = _SIZES.get(self.encoding, ())
        whole = self.sample_bits // 8
        return self.sample_bits in sizes and whole > 0 and self.frame_bytes % whole == 0


def read_wave(file: BinaryIO) -> WaveFile | None:
    """Read the head of a WAV file; None if it is none, or is damaged.

    A size that is not known, as in what a pipe has recorded, reaches to the end of the file.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    description = b""
    while len(chunk := file.read(_CHUNK.size)) == _CHUNK.size:
        name, length = _CHUNK.unpack(chunk)
        start = file.tell()
        if name == b"data":
            length = min(length, size - start)
            return _described(description, start, length)
        if name == b"fmt ":
            description = file.read(min(length, 64))
        if length == _UNKNOWN_SIZE:
            return None
        file.seek(start + length + length % 2)
    return None


def _described(description: bytes, start: int, length: int) -> WaveFile | None:
    if len(description) < _FORMAT.size:
        return None
    encoding, channels, rate, bytes_per_s, frame_bytes, bits = _FORMAT.unpack_from(description)
    if encoding == _EXTENSIBLE and len(description) >= 26:  # noqa: PLR2004 - where it is said
        (encoding,) = struct.unpack_from("<H", description, 24)
    if not rate or not frame_bytes:
        return None
    if bits in _SIZES.get(encoding, ()):  # as the engine has it, whatever the file says
        frame_bytes = channels * bits // 8 or frame_bytes
    frames = length // frame_bytes
    if encoding not in _SIZES:  # compressed: what is a frame there holds many
        rates = [per_s for per_s in (bytes_per_s, rate * channels * bits // 8) if per_s]
        frames = length * rate // min(rates) if rates else length
    return WaveFile(description, encoding, rate, frame_bytes, bits, start, frames)


def next_cut(file: BinaryIO, wave: WaveFile, start: int) -> int:
    """The frame at which the part that begins with frame `start` ends."""
    left_s = (wave.frames - start) / wave.rate
    if left_s <= WINDOW_S:
        return wave.frames
    latest_s = min(WINDOW_S, left_s - SHORTEST_PART_S)
    block = max(1, round(BLOCK_S * wave.rate))
    first = start + int((latest_s - SEARCHED_S) * wave.rate)
    levels = list(_levels(file, wave, first, int(SEARCHED_S * wave.rate) // block, block))
    quietest = _quietest(levels)
    return first + quietest * block


def _quietest(levels: list[float]) -> int:
    """The middle of the quietest third of a second, the last of them if there are several."""
    width = min(QUIET_BLOCKS, len(levels))
    sums = [sum(levels[at : at + width]) for at in range(len(levels) - width + 1)]
    quietest = min(range(len(sums)), key=lambda at: (sums[at], -at))
    return quietest + width // 2


def _levels(file: BinaryIO, wave: WaveFile, first: int, count: int, block: int) -> Iterator[float]:
    """The distance between the highest and the lowest sample of each block of frames."""
    file.seek(wave.start + first * wave.frame_bytes)
    for _ in range(count):
        samples = _samples(file.read(block * wave.frame_bytes), wave)
        yield float(max(samples) - min(samples)) if samples else 0.0


def _samples(data: bytes, wave: WaveFile) -> array[int] | array[float] | bytes:
    """The samples of all channels. Of 24 bits, the upper 16 are enough to find silence."""
    if wave.encoding in _MAGNITUDES:
        return data.translate(_MAGNITUDES[wave.encoding])
    if wave.sample_bits == 8:  # noqa: PLR2004 - bits
        return data
    if wave.sample_bits == 24:  # noqa: PLR2004 - bits
        upper = bytearray(len(data) // 3 * 2)
        upper[0::2], upper[1::2] = data[1::3], data[2::3]
        data = bytes(upper)
    samples = _array(wave)
    samples.frombytes(data[: len(data) - len(data) % samples.itemsize])
    if sys.byteorder == "big":
        samples.byteswap()
    return samples


def _array(wave: WaveFile) -> array[int] | array[float]:
    if wave.encoding == _FLOAT:
        return array("f" if wave.sample_bits == 32 else "d")  # noqa: PLR2004 - bits
    return array("i" if wave.sample_bits == 32 else "h")  # noqa: PLR2004 - bits


def part_of(file: BinaryIO, wave: WaveFile, start: int, end: int) -> Iterator[bytes]:
    """A WAV file of the frames from `start` to `end`, in blocks."""
    length = (end - start) * wave.frame_bytes
    described = wave.description + b"\0" * (len(wave.description) % 2)
    total = 4 + _CHUNK.size + len(described) + _CHUNK.size + length
    yield _CHUNK.pack(b"RIFF", total) + b"WAVE"
    yield _CHUNK.pack(b"fmt ", len(wave.description)) + described
    yield _CHUNK.pack(b"data", length)
    file.seek(wave.start + start * wave.frame_bytes)
    while length and (block := file.read(min(COPY_BYTES, length))):
        length -= len(block)
        yield block
