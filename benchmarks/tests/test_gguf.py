"""GGUF files written byte by byte, and read back."""

import struct
from pathlib import Path

import numpy as np
import pytest

from gguf import F32, Q4_1, Q8_0, Reader, elements, read_gguf


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def half(value: float) -> bytes:
    return np.float16(value).tobytes()


def as_bytes(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(data, np.uint8)


def test_q8_0_is_a_scale_and_signed_bytes() -> None:
    integers = np.arange(-32, 32, dtype=np.int8)
    raw = half(0.5) + integers[:32].tobytes() + half(-2) + integers[32:].tobytes()
    expected = np.concatenate([integers[:32] * 0.5, integers[32:] * -2.0])
    assert elements(as_bytes(raw + bytes(100)), Q8_0, 64).tolist() == expected.tolist()


def test_q4_1_has_its_low_halves_first() -> None:
    low, high = np.arange(16) % 16, np.arange(16)[::-1]
    raw = half(0.25) + half(-1) + (low | high << 4).astype(np.uint8).tobytes()
    expected = np.concatenate([low, high]) * 0.25 - 1
    assert elements(as_bytes(raw + bytes(100)), Q4_1, 32).tolist() == expected.tolist()


def test_f32_is_taken_as_it_is() -> None:
    values = np.array([1.5, -2.25, np.inf], np.float32)
    assert elements(as_bytes(values.tobytes() + b"more bytes"), F32, 3).tolist() == values.tolist()


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="type 2 is not read"):
        elements(as_bytes(b""), 2, 32)


def test_values_follow_each_other() -> None:
    reader = Reader(as_bytes(struct.pack("<Ib?", 7, -3, True) + string("é")))
    assert [reader.take("I"), reader.value(1), reader.value(7), reader.value(8)] == [
        7,
        -3,
        True,
        "é",
    ]


def test_a_file_is_read(tmp_path: Path) -> None:
    metadata = (
        string("general.alignment")
        + struct.pack("<II", 4, 64)
        + string("names")
        + struct.pack("<IIQ", 9, 8, 2)
        + string("a")
        + string("bc")
    )
    infos = (
        string("matrix")
        + struct.pack("<IQQIQ", 2, 3, 2, F32, 0)
        + string("vector")
        + struct.pack("<IQIQ", 1, 32, Q8_0, 64)
    )
    head = struct.pack("<IIQQ", 0x46554747, 3, 2, 2) + metadata + infos
    head += bytes(-len(head) % 64)
    matrix = np.arange(6, dtype=np.float32)
    vector = np.arange(32, dtype=np.int8)
    path = tmp_path / "model.gguf"
    path.write_bytes(head + matrix.tobytes() + bytes(64 - 24) + half(2) + vector.tobytes())
    found, tensors = read_gguf(path)
    assert found == {"general.alignment": 64, "names": ["a", "bc"]}
    # GGUF has the innermost dimension first.
    assert tensors["matrix"].tolist() == matrix.reshape(2, 3).tolist()
    assert tensors["vector"].tolist() == (2 * vector.astype(float)).tolist()


@pytest.mark.parametrize("length", range(32))
def test_tensors_begin_at_a_multiple_of_32(tmp_path: Path, length: int) -> None:
    head = struct.pack("<IIQQ", 0x46554747, 3, 1, 0)
    head += string("x" * length) + struct.pack("<IQIQ", 1, 2, F32, 0)
    path = tmp_path / "model.gguf"
    path.write_bytes(head + bytes(-len(head) % 32) + struct.pack("<2f", 1.5, -2.5) + bytes(64))
    _, tensors = read_gguf(path)
    assert tensors["x" * length].tolist() == [1.5, -2.5]


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(struct.pack("<IIQQ", 0x46554747, 2, 0, 0))
    with pytest.raises(ValueError, match="not a GGUF file of version 3"):
        read_gguf(path)
