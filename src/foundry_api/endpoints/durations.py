"""How long the sound of a compressed file lasts, of the formats that the engine reads."""

from __future__ import annotations

import os
from typing import BinaryIO

__all__ = ["duration_s"]

_TAG_HEAD = 10
_FLAC_HEAD = 42
_MPEG_RATES = (44100, 48000, 32000)
_HALVED = {3: 0, 2: 1, 0: 2}
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
MAX_LOST_BYTES = 64 * 1024
SURE_FRAMES = 3


def duration_s(file: BinaryIO) -> float | None:
    """How long a FLAC or MP3 file lasts; None if it is neither."""
    file.seek(0)
    start = _after_tags(file)
    file.seek(start)
    if (head := file.read(_FLAC_HEAD))[:4] == b"fLaC":
        return _flac_s(head)
    return _mpeg_s(file, start)


def _after_tags(file: BinaryIO) -> int:
    """Where the sound begins behind ID3 tags."""
    start = 0
    while (head := file.read(_TAG_HEAD))[:3] == b"ID3" and len(head) == _TAG_HEAD:
        size = 0
        for byte in head[6:]:
            size = size << 7 | byte & 127
        start += _TAG_HEAD + size
        file.seek(start)
    return start


def _flac_s(head: bytes) -> float | None:
    """By the stream's information, which is always the first block; None where it isn't said."""
    if len(head) < _FLAC_HEAD:
        return None
    packed = int.from_bytes(head[18:26], "big")
    rate, samples = packed >> 44, packed & 0xF_FFFF_FFFF
    return samples / rate if rate and samples else None


def _mpeg_s(file: BinaryIO, start: int) -> float | None:
    """The frames of MPEG audio one by one, since their bit rate may change."""
    size = file.seek(0, os.SEEK_END)
    at, total, frames, lost = start, 0.0, 0, 0
    while at + 4 <= size and lost <= MAX_LOST_BYTES:
        file.seek(at)
        found = _frame(file.read(4))
        if found is None:
            at, lost = at + 1, lost + 1
            if frames < SURE_FRAMES:  # what looked like frames was chance
                total, frames = 0.0, 0
            continue
        length, seconds = found
        total, frames, at, lost = total + seconds, frames + 1, at + length, 0
    return total if frames >= SURE_FRAMES else None


def _frame(head: bytes) -> tuple[int, float] | None:
    """The bytes and the seconds of the frame that a header begins; None if it is no header."""
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    kbits, rate = head[2] >> 4, head[2] >> 2 & 3
    if head[0] != 0xFF or head[1] < 0xE0 or version == 1 or not layer:  # noqa: PLR2004 - the mark
        return None
    if rate == 3 or kbits in {0, 15}:  # noqa: PLR2004 - reserved
        return None
    is_first = version == 3  # noqa: PLR2004 - MPEG-1
    per_s = _MPEG_RATES[rate] >> _HALVED[version]
    bits = _KBITS[is_first, layer][kbits] * 1000
    padding = head[2] >> 1 & 1
    if layer == 3:  # noqa: PLR2004 - layer I
        return (12 * bits // per_s + padding) * 4, 384 / per_s
    samples = 576 if layer == 1 and not is_first else 1152
    return samples // 8 * bits // per_s + padding, samples / per_s
