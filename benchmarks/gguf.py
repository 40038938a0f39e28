"""Reads GGUF files."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC, VERSION = 0x46554747, 3
STRING, ARRAY = 8, 9
# Metadata types of one number, and struct's letters for them.
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
# Types of a tensor's elements.
F32, Q4_1, Q8_0 = 0, 3, 8
BLOCK = 32

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


class Reader:
    """Reads little-endian values, one after the other."""

    def __init__(self, data: Bytes) -> None:
        self.data, self.at = data, 0

    def take(self, letter: str) -> Any:
        (value,) = struct.unpack_from("<" + letter, self.data.data, self.at)
        self.at += struct.calcsize("<" + letter)
        return value

    def text(self) -> str:
        length = self.take("Q")
        self.at += length
        return bytes(self.data[self.at - length : self.at]).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            kind, count = self.take("I"), self.take("Q")
            return [self.value(kind) for _ in range(count)]
        return self.take(SCALARS[kind])


def half(raw: Bytes) -> Floats:
    """Float16 values of two bytes each, as float32."""
    return raw.copy().view(np.float16).astype(np.float32)


def elements(raw: Bytes, kind: int, count: int) -> Floats:
    """The first `count` elements of a tensor of that type.

    Raises ValueError if the type is not read here."""
    if kind == F32:
        return raw[: count * 4].view(np.float32)
    if kind == Q4_1:  # scale and minimum as float16, 32 × 4 bits: the low halves come first
        blocks = raw[: count // BLOCK * 20].reshape(-1, 20)
        nibbles = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
        return (nibbles * half(blocks[:, :2]) + half(blocks[:, 2:4])).reshape(-1)
    if kind == Q8_0:  # scale as float16, 32 × int8
        blocks = raw[: count // BLOCK * 34].reshape(-1, 34)
        return (blocks[:, 2:].copy().view(np.int8) * half(blocks[:, :2])).reshape(-1)
    raise ValueError(f"element type {kind} is not read here")


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Metadata, and tensors as float32, of a GGUF file with F32, Q4_1 and Q8_0 tensors.

    Raises ValueError if it is not one."""
    data = np.memmap(path, np.uint8, "r")
    reader = Reader(data)
    if (reader.take("I"), reader.take("I")) != (MAGIC, VERSION):
        raise ValueError(f"{path}: is not a GGUF file of version {VERSION}")
    tensor_count, metadata_count = reader.take("Q"), reader.take("Q")
    metadata = {}
    for _ in range(metadata_count):
        key = reader.text()
        metadata[key] = reader.value(reader.take("I"))
    infos = []
    for _ in range(tensor_count):
        name = reader.text()
        shape = [reader.take("Q") for _ in range(reader.take("I"))][::-1]
        infos.append((name, shape, reader.take("I"), reader.take("Q")))
    alignment = metadata.get("general.alignment", 32)
    start = (reader.at + alignment - 1) // alignment * alignment
    tensors = {}
    for name, shape, kind, offset in infos:
        count = int(np.prod(shape))
        values = elements(data[start + offset :], kind, count)
        tensors[name] = np.array(values, np.float32).reshape(shape)
    return metadata, tensors
