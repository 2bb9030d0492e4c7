"""Dividing WAV files of all formats at silence without loss, and durations of other files."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from foundry_api.core.audio import WINDOW_S, find_next_cut, iter_part, read_duration_s, read_wave
from foundry_api.core.transcriptions import AudioInput
from foundry_api.types.errors import InvalidRequest
from support.scripted_model.audio import SAMPLE_RATE, make_flac_header, make_silent_mp3

Samples = npt.NDArray[np.float64]
RATE = 8000
PCM, FLOAT, A_LAW, MU_LAW = 1, 3, 6, 7
KINDS = [
    (PCM, 8),
    (PCM, 16),
    (PCM, 24),
    (PCM, 32),
    (FLOAT, 32),
    (FLOAT, 64),
    (A_LAW, 8),
    (MU_LAW, 8),
]


def wav(
    data: bytes, encoding: int = PCM, bits: int = 16, channels: int = 1, size: int | None = None
) -> bytes:
    frame = channels * bits // 8
    described = struct.pack("<HHIIHH", encoding, channels, RATE, RATE * frame, frame, bits)
    size = len(data) if size is None else size
    chunks = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    chunks += b"fmt " + struct.pack("<I", len(described)) + described
    chunks += b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", min(4 + len(chunks), 2**32 - 1)) + b"WAVE" + chunks


def samples(*stretches: tuple[float, float]) -> Samples:
    """Return noise from -1 to 1, in stretches of (seconds, loudness)."""
    rng = np.random.default_rng(1)
    return np.concatenate([rng.uniform(-v, v, int(s * RATE)) for s, v in stretches])


def encoded(values: Samples, encoding: int, bits: int) -> bytes:
    if encoding == FLOAT:
        return values.astype(f"<f{bits // 8}").tobytes()
    if encoding in {A_LAW, MU_LAW}:
        loud = (np.abs(values) * 127).astype(np.uint8)
        signed = loud | np.where(values > 0, 0x80, 0).astype(np.uint8)
        return (signed ^ (0x55 if encoding == A_LAW else 0x7F)).astype(np.uint8).tobytes()
    if bits == 8:
        return (values * 127 + 128).astype(np.uint8).tobytes()
    samples = (values * (2 ** (bits - 1) - 1)).astype("<i4")
    if bits == 24:
        return samples.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return samples.astype(f"<i{bits // 8}").tobytes()


def cuts(content: bytes) -> list[float]:
    """Return where a file is divided, in seconds."""
    file = io.BytesIO(content)
    wave = read_wave(file)
    assert wave
    ends: list[int] = []
    start = 0
    while start < wave.frames:
        start = find_next_cut(file, wave, start)
        ends.append(start)
    assert all(b - a <= WINDOW_S * RATE for a, b in zip([0, *ends], ends, strict=False))
    return [end / RATE for end in ends]


@pytest.mark.parametrize(("encoding", "bits"), KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_wave_is_divided_in_a_pause(encoding: int, bits: int, channels: int) -> None:
    spoken = samples((23, 0.8), (0.5, 0.001), (33, 0.8))
    data = encoded(np.repeat(spoken, channels), encoding, bits)
    first, *_, last = cuts(wav(data, encoding, bits, channels))
    assert 23 < first < 23.5
    assert last == 56.5


@pytest.mark.parametrize("seconds", [30.1, 33, 59.9, 60, 61, 95, 300])
def test_no_part_is_too_long_or_too_short(seconds: float) -> None:
    ends = cuts(wav(encoded(samples((seconds, 0.5)), PCM, 16)))
    assert min(b - a for a, b in zip([0, *ends], ends, strict=False)) >= 5


@pytest.mark.parametrize(("encoding", "bits"), KINDS)
def test_parts_have_all_bytes_and_the_same_format(encoding: int, bits: int) -> None:
    data = encoded(samples((70, 0.5)), encoding, bits)
    file = io.BytesIO(wav(data, encoding, bits))
    wave = read_wave(file)
    assert wave
    together, start = b"", 0
    while start < wave.frames:
        end = find_next_cut(file, wave, start)
        part = io.BytesIO(b"".join(iter_part(file, wave, start, end)))
        found = read_wave(part)
        assert found
        assert (found.description, found.frames) == (wave.description, end - start)
        together += part.getvalue()[found.start :]
        start = end
    assert together == data


@pytest.mark.parametrize("size", [0xFFFFFFFF, 2**31, 2_000_000])
def test_wrong_size_extends_to_the_end_of_the_file(size: int) -> None:
    """A program that writes to a pipe does not know the size."""
    data = encoded(samples((40, 0.5)), PCM, 16)
    assert cuts(wav(data, size=size))[-1] == 40


@pytest.mark.parametrize("length", range(0, 60, 3))
def test_damaged_header_is_left_to_the_engine(length: int) -> None:
    content = wav(encoded(samples((40, 0.5)), PCM, 16))[:length]
    wave = read_wave(io.BytesIO(content))
    assert wave is None or wave.frames < 10


async def test_part_is_a_file_that_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(wav(encoded(samples((600, 0.5)), PCM, 16)))
    lengths: list[int] = []
    async for part in AudioInput(path).iter_parts():
        async with part:
            written = Path(await part.get_path())
            lengths.append(written.stat().st_size)  # noqa: ASYNC240 - a test's
        assert not written.exists()  # noqa: ASYNC240 - as above
    assert sum(lengths) == 600 * RATE * 2 + 44 * len(lengths)
    assert max(lengths) <= 30 * RATE * 2 + 44


async def test_short_recording_is_not_divided(tmp_path: Path) -> None:
    path = tmp_path / "short.wav"
    path.write_bytes(wav(encoded(samples((30, 0.5)), PCM, 16)))
    recording = AudioInput(path)
    assert [part async for part in recording.iter_parts()] == [recording]
    assert await recording.get_path() == str(path)


async def test_error_for_an_indivisible_recording_has_its_duration() -> None:
    adpcm = struct.pack("<HHIIHH", 2, 1, RATE, RATE // 2, 256, 4)
    content = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", 16) + adpcm
    content += b"data" + struct.pack("<I", 40 * RATE // 2) + bytes(40 * RATE // 2)
    with pytest.raises(InvalidRequest, match=r"lasts 40\.0 s") as caught:
        await anext(AudioInput(content).iter_parts())
    assert caught.value.field == "audio"


@pytest.mark.parametrize(
    ("encoding", "frame_bytes", "bytes_per_s"),
    [(PCM, 64, RATE * 2), (PCM, 1, RATE * 2), (2, 256, 0), (2, 256, 2**31)],
)
async def test_header_with_wrong_sizes_hides_no_sound(
    encoding: int, frame_bytes: int, bytes_per_s: int
) -> None:
    bits = 16 if encoding == PCM else 4
    described = struct.pack("<HHIIHH", encoding, 1, RATE, bytes_per_s, frame_bytes, bits)
    data = bytes(40 * RATE * bits // 8)
    content = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", 16) + described
    wave = read_wave(io.BytesIO(content + b"data" + struct.pack("<I", len(data)) + data))
    assert wave is not None
    assert wave.duration_s == 40


def piped_flac(seconds: float, *, is_variable: bool) -> bytes:
    """Return a FLAC file without a length in its header, with the header of its last frame."""
    block, total = 4096, int(seconds * SAMPLE_RATE)
    info = struct.pack(">HH", block, block) + bytes(6) + (SAMPLE_RATE << 44).to_bytes(8, "big")
    last = total % block or block
    number = total - last if is_variable else (total - last) // block
    head = b"\xff" + (b"\xf9" if is_variable else b"\xf8") + b"\x75\x08"
    head += chr(number).encode("utf-8", "surrogatepass") if number < 0x110000 else coded(number)
    head += (last - 1).to_bytes(2, "big")
    crc = 0
    for byte in head:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1) & 0xFF ^ (7 if crc & 0x80 else 0)
    noise = b"\xff\xf8\xff\xf9\x75\x08" * 9
    return b"fLaC\x80\0\0\x22" + info + bytes(16) + noise + head + bytes([crc]) + noise


def coded(number: int) -> bytes:
    """Encode a number like UTF-8 beyond the range of Unicode: here with six bytes."""
    parts = [number >> shift & 0x3F | 0x80 for shift in (24, 18, 12, 6, 0)]
    return bytes([0xFC | number >> 30, *parts])


class TestDurations:
    def test_mp3(self) -> None:
        assert read_duration_s(io.BytesIO(make_silent_mp3(57.8))) == pytest.approx(57.8, abs=0.03)

    def test_flac(self) -> None:
        assert read_duration_s(io.BytesIO(make_flac_header(57.8))) == pytest.approx(57.8)

    @pytest.mark.parametrize("is_variable", [False, True])
    @pytest.mark.parametrize("seconds", [1, 29.9, 57.8, 7200.5])
    def test_flac_from_a_pipe(self, seconds: float, *, is_variable: bool) -> None:
        content = piped_flac(seconds, is_variable=is_variable)
        assert read_duration_s(io.BytesIO(content)) == pytest.approx(seconds)

    async def test_flac_without_any_length_may_be_long(self) -> None:
        with pytest.raises(InvalidRequest, match="may last long") as caught:
            await anext(AudioInput(make_flac_header(0)).iter_parts())
        assert caught.value.field == "audio"

    @pytest.mark.parametrize(
        "between", [b"\xff" * 300_000, bytes(300_000), b"\xff\xfb\x9c" * 99_999]
    )
    def test_mp3_with_a_picture(self, between: bytes) -> None:
        content = make_silent_mp3(20.0) + between + make_silent_mp3(20.0)
        assert read_duration_s(io.BytesIO(content)) == pytest.approx(40, abs=0.1)

    def test_frame_marks_in_a_picture_are_not_counted(self) -> None:
        picture = np.random.default_rng(3).integers(0, 256, 2**20, np.uint8).tobytes()
        assert read_duration_s(io.BytesIO(make_silent_mp3(20.0) + picture)) == pytest.approx(
            20, abs=0.2
        )

    @pytest.mark.parametrize("content", [b"", b"x", b"ID3", b"\xff" * 100_000, bytes(200_000)])
    def test_duration_of_other_formats_is_unknown(self, content: bytes) -> None:
        assert read_duration_s(io.BytesIO(content)) is None

    def test_random_frame_marks_are_no_mp3(self) -> None:
        chance = np.random.default_rng(3).integers(0, 256, 200_000, np.uint8).tobytes()
        assert read_duration_s(io.BytesIO(chance)) is None
