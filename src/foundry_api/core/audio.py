"""WAV files, divided at silence into parts that a speech model hears in full.

Whisper listens to the first half minute of what it is given, and the engine drops the rest without
a word (probed on 2.2.1).
"""

from __future__ import annotations

import os
import re
import struct
import sys
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["WINDOW_S", "WaveFile", "find_next_cut", "iter_part", "read_duration_s", "read_wave"]


_TAG_HEAD = 10
_FLAC_HEAD = 42
_MPEG_RATES = (44100, 48000, 32000)
_RATE_SHIFTS = {3: 0, 2: 1, 0: 2}
"""MPEG-1, 2 and 2.5: how often the sample rate is halved."""
_KBITS = {
    (True, 3): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Kilobits a second, by whether it is MPEG-1 and by the code of the layer."""
MAX_JUNK_BYTES = 64 * 1024
"""Without frames in so much it is no MPEG audio. Behind frames there may be more: of pictures."""
MIN_FRAMES = 3
_BLOCK_BYTES = 4096
_MPEG_MARK = re.compile(rb"\xff[\xe2-\xff][\x10-\xef]", re.DOTALL)

_FLAC_TAIL_BYTES = 2**20
_FLAC_MARK = re.compile(rb"\xff[\xf8\xf9]")
_FLAC_FRAME_HEAD = 16


def read_duration_s(file: BinaryIO) -> float | None:
    """How long a FLAC or MP3 file lasts; None if it is neither, infinity if it can't be said."""
    file.seek(0)
    start = _skip_tags(file)
    file.seek(start)
    if (head := file.read(_FLAC_HEAD))[:4] == b"fLaC":
        return _read_flac_duration_s(file, head)
    return _read_mpeg_duration_s(file, start)


def _skip_tags(file: BinaryIO) -> int:
    """Where the sound begins behind ID3 tags."""
    start = 0
    while (head := file.read(_TAG_HEAD))[:3] == b"ID3" and len(head) == _TAG_HEAD:
        size = 0
        for byte in head[6:]:
            size = size << 7 | byte & 127
        start += _TAG_HEAD + size
        file.seek(start)
    return start


def _read_flac_duration_s(file: BinaryIO, head: bytes) -> float | None:
    """By the stream's information, which is always the first block, or else by the last frame.

    What was written to a pipe does not say at its beginning how many samples it has.
    """
    if len(head) < _FLAC_HEAD:
        return None
    packed = int.from_bytes(head[18:26], "big")
    rate, samples = packed >> 44, packed & 0xF_FFFF_FFFF
    if not rate:
        return None
    block = int.from_bytes(head[10:12], "big")
    return (samples or _find_flac_sample_count(file, block)) / rate


def _find_flac_sample_count(file: BinaryIO, block: int) -> float:
    """The samples up to the end of the last frame; infinity without one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _FLAC_TAIL_BYTES))
    tail = file.read()
    for mark in reversed([match.start() for match in _FLAC_MARK.finditer(tail)]):
        samples = _parse_flac_frame_end(tail[mark : mark + _FLAC_FRAME_HEAD], block)
        if samples is not None:
            return samples
    return float("inf")


def _parse_flac_frame_end(head: bytes, block: int) -> int | None:
    """The number of the sample behind a frame; None if it is no frame's header (RFC 9639, 9.1)."""
    if len(head) < _FLAC_FRAME_HEAD:
        head += bytes(_FLAC_FRAME_HEAD - len(head))
    size_code, rate_code = head[2] >> 4, head[2] & 15
    # Its number is coded as UTF-8 does it, with up to seven bytes.
    ones = 8 - (head[4] ^ 0xFF).bit_length()
    number_bytes = ones or 1
    if not size_code or rate_code == 15 or head[3] & 1 or ones in {1, 8}:  # noqa: PLR2004 - not used
        return None
    number = head[4] & (0x7F >> ones)
    for byte in head[5 : 4 + number_bytes]:
        number = number << 6 | byte & 0x3F
    at = 4 + number_bytes
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    rate_bytes = {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    end = at + size_bytes + rate_bytes
    if _compute_crc8(head[:end]) != head[end]:
        return None
    if size_bytes:
        samples = int.from_bytes(head[at : at + size_bytes], "big") + 1
    elif size_code == 1:
        samples = 192
    else:
        samples = 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8  # noqa: PLR2004 - codes
    return (number if head[1] & 1 else number * block) + samples


def _compute_crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x107 if crc & 0x80 else 0)) & 0xFF
    return crc


def _read_mpeg_duration_s(file: BinaryIO, start: int) -> float | None:
    """The frames of MPEG audio one by one, since their bit rate may change."""
    size = file.seek(0, os.SEEK_END)
    position, total, frames = start, 0.0, 0
    while position + 4 <= size:
        if frame := _read_frame(file, position):
            length, seconds = frame
            position, total, frames = position + length, total + seconds, frames + 1
            continue
        if frames < MIN_FRAMES:  # what looked like frames was chance
            total, frames = 0.0, 0
            size = min(size, position + MAX_JUNK_BYTES)
        position = _find_next_frame(file, position + 1, size)
    return total if frames >= MIN_FRAMES else None


def _find_next_frame(file: BinaryIO, position: int, end: int) -> int:
    """Where the next two frames begin; `end` without any before it."""
    while position < end:
        file.seek(position)
        block = file.read(_BLOCK_BYTES)
        for mark in _MPEG_MARK.finditer(block):
            place = position + mark.start()
            frame = _parse_frame(mark[0])
            if frame and _read_frame(file, place + frame[0]):
                return place
        position += max(1, len(block) - 2)
    return end


def _read_frame(file: BinaryIO, position: int) -> tuple[int, float] | None:
    file.seek(position)
    head = file.read(3)
    return _parse_frame(head) if len(head) == 3 else None  # noqa: PLR2004 - what `_frame` reads


def _parse_frame(head: bytes) -> tuple[int, float] | None:
    """The bytes and the seconds of the frame that a header begins; None if it is no header."""
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    kbits, rate = head[2] >> 4, head[2] >> 2 & 3
    if head[0] != 0xFF or head[1] < 0xE0 or version == 1 or not layer:  # noqa: PLR2004 - the mark
        return None
    if rate == 3 or kbits in {0, 15}:  # noqa: PLR2004 - reserved
        return None
    is_first = version == 3  # noqa: PLR2004 - MPEG-1
    per_s = _MPEG_RATES[rate] >> _RATE_SHIFTS[version]
    bits = _KBITS[is_first, layer][kbits] * 1000
    padding = head[2] >> 1 & 1
    if layer == 3:  # noqa: PLR2004 - layer I
        return (12 * bits // per_s + padding) * 4, 384 / per_s
    samples = 576 if layer == 1 and not is_first else 1152
    return samples // 8 * bits // per_s + padding, samples / per_s


WINDOW_S = 30.0
"""What Whisper hears at a time."""

SEARCH_RANGE_S = 12.0
"""A part ends at the quietest moment of the last seconds of a window."""

MIN_PART_S = 5.0
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
        sample_bytes = self.sample_bits // 8
        return (
            self.sample_bits in sizes and sample_bytes > 0 and self.frame_bytes % sample_bytes == 0
        )


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
            return _make_wave_file(description, start, length)
        if name == b"fmt ":
            description = file.read(min(length, 64))
        if length == _UNKNOWN_SIZE:
            return None
        file.seek(start + length + length % 2)
    return None


def _make_wave_file(format_chunk: bytes, start: int, length: int) -> WaveFile | None:
    if len(format_chunk) < _FORMAT.size:
        return None
    encoding, channels, rate, bytes_per_s, frame_bytes, bits = _FORMAT.unpack_from(format_chunk)
    if encoding == _EXTENSIBLE and len(format_chunk) >= 26:  # noqa: PLR2004 - where it is said
        (encoding,) = struct.unpack_from("<H", format_chunk, 24)
    if not rate or not frame_bytes:
        return None
    if bits in _SIZES.get(encoding, ()):  # as the engine has it, whatever the file says
        frame_bytes = channels * bits // 8 or frame_bytes
    frames = length // frame_bytes
    if encoding not in _SIZES:  # compressed: what is a frame there holds many
        rates = [per_s for per_s in (bytes_per_s, rate * channels * bits // 8) if per_s]
        frames = length * rate // min(rates) if rates else length
    return WaveFile(format_chunk, encoding, rate, frame_bytes, bits, start, frames)


def find_next_cut(file: BinaryIO, wave: WaveFile, start: int) -> int:
    """The frame at which the part that begins with frame `start` ends."""
    remaining_s = (wave.frames - start) / wave.rate
    if remaining_s <= WINDOW_S:
        return wave.frames
    latest_s = min(WINDOW_S, remaining_s - MIN_PART_S)
    block = max(1, round(BLOCK_S * wave.rate))
    first = start + int((latest_s - SEARCH_RANGE_S) * wave.rate)
    levels = list(
        _measure_levels(file, wave, first, int(SEARCH_RANGE_S * wave.rate) // block, block)
    )
    quietest = _find_quietest(levels)
    return first + quietest * block


def _find_quietest(levels: list[float]) -> int:
    """The middle of the quietest third of a second, the last of them if there are several."""
    width = min(QUIET_BLOCKS, len(levels))
    sums = [sum(levels[position : position + width]) for position in range(len(levels) - width + 1)]
    quietest = min(range(len(sums)), key=lambda position: (sums[position], -position))
    return quietest + width // 2


def _measure_levels(
    file: BinaryIO, wave: WaveFile, first: int, count: int, block: int
) -> Iterator[float]:
    """The distance between the highest and the lowest sample of each block of frames."""
    file.seek(wave.start + first * wave.frame_bytes)
    for _ in range(count):
        samples = _decode_samples(file.read(block * wave.frame_bytes), wave)
        yield float(max(samples) - min(samples)) if samples else 0.0


def _decode_samples(data: bytes, wave: WaveFile) -> array[int] | array[float] | bytes:
    """The samples of all channels. Of 24 bits, the upper 16 are enough to find silence."""
    if wave.encoding in _MAGNITUDES:
        return data.translate(_MAGNITUDES[wave.encoding])
    if wave.sample_bits == 8:  # noqa: PLR2004 - bits
        return data
    if wave.sample_bits == 24:  # noqa: PLR2004 - bits
        upper = bytearray(len(data) // 3 * 2)
        upper[0::2], upper[1::2] = data[1::3], data[2::3]
        data = bytes(upper)
    samples = _make_sample_array(wave)
    samples.frombytes(data[: len(data) - len(data) % samples.itemsize])
    if sys.byteorder == "big":
        samples.byteswap()
    return samples


def _make_sample_array(wave: WaveFile) -> array[int] | array[float]:
    if wave.encoding == _FLOAT:
        return array("f" if wave.sample_bits == 32 else "d")  # noqa: PLR2004 - bits
    return array("i" if wave.sample_bits == 32 else "h")  # noqa: PLR2004 - bits


def iter_part(file: BinaryIO, wave: WaveFile, start: int, end: int) -> Iterator[bytes]:
    """A WAV file of the frames from `start` to `end`, in blocks."""
    length = (end - start) * wave.frame_bytes
    padded_description = wave.description + b"\0" * (len(wave.description) % 2)
    total = 4 + _CHUNK.size + len(padded_description) + _CHUNK.size + length
    yield _CHUNK.pack(b"RIFF", total) + b"WAVE"
    yield _CHUNK.pack(b"fmt ", len(wave.description)) + padded_description
    yield _CHUNK.pack(b"data", length)
    file.seek(wave.start + start * wave.frame_bytes)
    while length and (block := file.read(min(COPY_BYTES, length))):
        length -= len(block)
        yield block
