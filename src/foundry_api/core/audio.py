"""Divide WAV files at silence, and read the duration of FLAC and MP3 files.

Whisper transcribes 30 seconds, and the engine silently drops the rest (tested with 2.2.1).
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

WINDOW_S = 30.0  # what Whisper transcribes at once
SEARCH_RANGE_S = 12.0  # a part ends at the quietest moment of the last seconds of a window

# The last part has at least this length: models invent words for a few tenths of a second.
MIN_PART_S = 5.0

# Loudness is measured per block, and silence is looked for over 15 blocks: 0.3 s.
BLOCK_S = 0.02
QUIET_BLOCKS = 15

COPY_BYTES = 64 * 1024

# The encodings of WAV files, and the sizes of their samples in bits.
_PCM, _FLOAT, _A_LAW, _MU_LAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_SAMPLE_BITS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64), _A_LAW: (8,), _MU_LAW: (8,)}

# The loudness of a sample of telephony by its byte.
_MAGNITUDES = {
    _A_LAW: bytes((byte ^ 0x55) & 0x7F for byte in range(256)),
    _MU_LAW: bytes(~byte & 0x7F for byte in range(256)),
}
_FORMAT = struct.Struct("<HHIIHH")
_CHUNK = struct.Struct("<4sI")
_UNKNOWN_SIZE = 0xFFFFFFFF

# MPEG audio: sample rates of version 1, and how often versions 1, 2 and 2.5 halve them.
_MPEG_RATES = (44100, 48000, 32000)
_RATE_SHIFTS = {3: 0, 2: 1, 0: 2}

# Kilobits per second by "is version 1" and the code of the layer.
_KBITS = {
    (True, 3): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}

# A file without frames in this many bytes is no MPEG audio. After frames there may be more other
# data, such as pictures.
MAX_JUNK_BYTES = 64 * 1024
MIN_FRAMES = 3
_BLOCK_BYTES = 4096
_MPEG_MARK = re.compile(rb"\xff[\xe2-\xff][\x10-\xef]", re.DOTALL)

_ID3_HEAD_BYTES = 10
_FLAC_HEAD_BYTES = 42
_FLAC_TAIL_BYTES = 2**20
_FLAC_MARK = re.compile(rb"\xff[\xf8\xf9]")
_FLAC_FRAME_HEAD_BYTES = 16


# --- WAV files --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WaveFile:
    """The layout of a WAV file. A frame has one sample of every channel."""

    description: bytes  # the content of the format chunk
    encoding: int
    rate: int  # frames per second
    frame_bytes: int
    sample_bits: int
    start: int  # offset of the first frame in the file
    frames: int

    @property
    def duration_s(self) -> float:
        return self.frames / self.rate

    @property
    def is_divisible(self) -> bool:
        """Whether the samples can be read, to find silence."""
        sizes = _SAMPLE_BITS.get(self.encoding, ())
        sample_bytes = self.sample_bits // 8
        return (
            self.sample_bits in sizes and sample_bytes > 0 and self.frame_bytes % sample_bytes == 0
        )


def read_wave(file: BinaryIO) -> WaveFile | None:
    """Read the layout of a WAV file. Return None for other and for damaged files."""
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
            # A recorder that writes to a pipe gives a size that is larger than the file.
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
    if encoding == _EXTENSIBLE and len(format_chunk) >= 26:  # noqa: PLR2004 - end of the encoding
        (encoding,) = struct.unpack_from("<H", format_chunk, 24)
    if not rate or not frame_bytes:
        return None
    if bits in _SAMPLE_BITS.get(encoding, ()):
        # As the engine calculates it. The value in the file may be wrong.
        frame_bytes = channels * bits // 8 or frame_bytes
    frames = length // frame_bytes
    if encoding not in _SAMPLE_BITS:
        # Compressed: its "frame" is a block with many frames, so estimate them from the bit rate.
        rates = [per_s for per_s in (bytes_per_s, rate * channels * bits // 8) if per_s]
        frames = length * rate // min(rates) if rates else length
    return WaveFile(format_chunk, encoding, rate, frame_bytes, bits, start, frames)


def find_next_cut(file: BinaryIO, wave: WaveFile, start: int) -> int:
    """Return the frame at which the part that starts at frame `start` ends."""
    remaining_s = (wave.frames - start) / wave.rate
    if remaining_s <= WINDOW_S:
        return wave.frames
    latest_s = min(WINDOW_S, remaining_s - MIN_PART_S)
    block = max(1, round(BLOCK_S * wave.rate))
    first = start + int((latest_s - SEARCH_RANGE_S) * wave.rate)
    file.seek(wave.start + first * wave.frame_bytes)
    levels: list[float] = []  # the distance between the highest and the lowest sample of each block
    for _ in range(int(SEARCH_RANGE_S * wave.rate) // block):
        samples = _decode_samples(file.read(block * wave.frame_bytes), wave)
        levels.append(float(max(samples) - min(samples)) if samples else 0.0)
    # Cut in the middle of the quietest 0.3 s, the last of them if there are several.
    width = min(QUIET_BLOCKS, len(levels))
    sums = [sum(levels[index : index + width]) for index in range(len(levels) - width + 1)]
    quietest = min(range(len(sums)), key=lambda index: (sums[index], -index))
    return first + (quietest + width // 2) * block


def _decode_samples(data: bytes, wave: WaveFile) -> array[int] | array[float] | bytes:
    """Return the samples of all channels."""
    if wave.encoding in _MAGNITUDES:
        return data.translate(_MAGNITUDES[wave.encoding])
    if wave.sample_bits == 8:  # noqa: PLR2004 - bits
        return data
    if wave.sample_bits == 24:  # noqa: PLR2004 - bits
        # No array type has 24 bits. The upper 16 are enough to find silence.
        upper = bytearray(len(data) // 3 * 2)
        upper[0::2], upper[1::2] = data[1::3], data[2::3]
        data = bytes(upper)
    is_32_bit = wave.sample_bits == 32  # noqa: PLR2004 - bits
    samples: array[int] | array[float]
    if wave.encoding == _FLOAT:
        samples = array("f" if is_32_bit else "d")
    else:
        samples = array("i" if is_32_bit else "h")
    samples.frombytes(data[: len(data) - len(data) % samples.itemsize])
    if sys.byteorder == "big":
        samples.byteswap()
    return samples


def iter_part(file: BinaryIO, wave: WaveFile, start: int, end: int) -> Iterator[bytes]:
    """Yield a WAV file of the frames from `start` to `end`, in blocks."""
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


# --- durations of FLAC and MP3 files ----------------------------------------------------------


def read_duration_s(file: BinaryIO) -> float | None:
    """Return the duration of a FLAC or MP3 file.

    None if it is neither of them, infinity if the duration cannot be determined.
    """
    file.seek(0)
    start = 0
    while (tag := file.read(_ID3_HEAD_BYTES))[:3] == b"ID3" and len(tag) == _ID3_HEAD_BYTES:
        tag_bytes = 0
        for byte in tag[6:]:  # 7 bits each
            tag_bytes = tag_bytes << 7 | byte & 127
        start += _ID3_HEAD_BYTES + tag_bytes
        file.seek(start)
    file.seek(start)
    if (head := file.read(_FLAC_HEAD_BYTES))[:4] == b"fLaC":
        return _read_flac_duration_s(file, head)
    return _read_mpeg_duration_s(file, start)


def _read_flac_duration_s(file: BinaryIO, head: bytes) -> float | None:
    # The stream information is always the first block.
    if len(head) < _FLAC_HEAD_BYTES:
        return None
    packed = int.from_bytes(head[18:26], "big")
    rate, samples = packed >> 44, packed & 0xF_FFFF_FFFF
    if not rate:
        return None
    if samples:
        return samples / rate
    # An encoder that writes to a pipe cannot fill in the number of samples. Find the last frame.
    block = int.from_bytes(head[10:12], "big")
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _FLAC_TAIL_BYTES))
    tail = file.read()
    for mark in reversed([match.start() for match in _FLAC_MARK.finditer(tail)]):
        end = _parse_flac_frame_end(tail[mark : mark + _FLAC_FRAME_HEAD_BYTES], block)
        if end is not None:
            return end / rate
    return float("inf")


def _parse_flac_frame_end(head: bytes, block: int) -> int | None:
    """Return the number of the sample after a frame, or None if this is not a frame header.

    The format is in RFC 9639, 9.1.
    """
    if len(head) < _FLAC_FRAME_HEAD_BYTES:
        head += bytes(_FLAC_FRAME_HEAD_BYTES - len(head))
    size_code, rate_code = head[2] >> 4, head[2] & 15
    # The frame number is coded like UTF-8, with up to seven bytes.
    ones = 8 - (head[4] ^ 0xFF).bit_length()
    number_bytes = ones or 1
    if not size_code or rate_code == 15 or head[3] & 1 or ones in {1, 8}:  # noqa: PLR2004 - reserved
        return None
    number = head[4] & (0x7F >> ones)
    for byte in head[5 : 4 + number_bytes]:
        number = number << 6 | byte & 0x3F
    # These codes say that the block size or the sample rate follows the frame number.
    size_start = 4 + number_bytes
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    rate_bytes = {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    end = size_start + size_bytes + rate_bytes
    if _compute_crc8(head[:end]) != head[end]:
        return None
    if size_bytes:
        samples = int.from_bytes(head[size_start : size_start + size_bytes], "big") + 1
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
    # Every frame is read, because the bit rate may change from one to the next.
    size = file.seek(0, os.SEEK_END)
    position, total, frames = start, 0.0, 0
    while position + 4 <= size:
        if frame := _read_frame(file, position):
            length, seconds = frame
            position, total, frames = position + length, total + seconds, frames + 1
            continue
        if frames < MIN_FRAMES:  # other data that looked like frames
            total, frames = 0.0, 0
            size = min(size, position + MAX_JUNK_BYTES)
        position = _find_next_frame(file, position + 1, size)
    return total if frames >= MIN_FRAMES else None


def _find_next_frame(file: BinaryIO, position: int, end: int) -> int:
    """Return the position of the next two frames in a row, or `end`."""
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
    return _parse_frame(head) if len(head) == 3 else None  # noqa: PLR2004 - as read above


def _parse_frame(head: bytes) -> tuple[int, float] | None:
    """Return the length of a frame in bytes and in seconds, or None if this is not a header."""
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
