"""The header of a GGUF file, walked once before it is believed.

It says how many fields, items, tensors and bytes there are, and the `gguf` package makes an array
of each. So what it says is held against the size of the file, and against what a model has.
"""

import struct
from math import prod
from pathlib import Path
from typing import BinaryIO

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

MOST_FIELDS = 1 << 12
MOST_TENSORS = 1 << 16
MOST_ITEMS = 1 << 21  # of all arrays; a vocabulary of 256,000 with its merges has 1.3 million
MOST_DIMENSIONS = 4
WIDTHS = {
    **dict.fromkeys((GGUFValueType.UINT8, GGUFValueType.INT8, GGUFValueType.BOOL), 1),
    **dict.fromkeys((GGUFValueType.UINT16, GGUFValueType.INT16), 2),
    **dict.fromkeys((GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.FLOAT32), 4),
    **dict.fromkeys((GGUFValueType.UINT64, GGUFValueType.INT64, GGUFValueType.FLOAT64), 8),
}


def check_header(path: Path) -> None:
    """Raises `ValueError` where the header promises what the file cannot hold, or no model has."""
    with path.open("rb") as file:
        walk = _Walk(file, path.stat().st_size)
        if walk.take(4) != b"GGUF":
            raise ValueError("does not begin as one")
        version = walk.number("I")
        if version & 0xFFFF == 0:  # written on a machine of the other byte order
            walk.order = ">"
        elif version not in (2, 3):
            raise ValueError(f"version {version}")
        tensors, fields = walk.number("Q"), walk.number("Q")
        _check_most(tensors, MOST_TENSORS, "tensors")
        _check_most(fields, MOST_FIELDS, "fields")
        for _ in range(fields):
            walk.text()
            walk.value(walk.number("I"))
        for _ in range(tensors):
            walk.tensor()


class _Walk:
    """A place in the header; every step stays within the file."""

    def __init__(self, file: BinaryIO, size: int):
        self.order = "<"
        self._file, self._size, self._items = file, size, 0

    def take(self, length: int) -> bytes:
        self._check_room(length)
        return self._file.read(length)

    def number(self, form: str) -> int:
        (number,) = struct.unpack(self.order + form, self.take(struct.calcsize(form)))
        return int(number)

    def text(self) -> None:
        self._skip(self.number("Q"))

    def value(self, kind: int) -> None:
        if kind == GGUFValueType.STRING:
            self.text()
        elif kind == GGUFValueType.ARRAY:
            item, count = self.number("I"), self.number("Q")
            self._items += count
            _check_most(self._items, MOST_ITEMS, "items")
            if item == GGUFValueType.ARRAY:
                raise ValueError("an array of arrays")
            if item == GGUFValueType.STRING:
                for _ in range(count):
                    self.text()
            else:
                self._skip(count * _width(item))
        else:
            self._skip(_width(kind))

    def tensor(self) -> None:
        self.text()
        dimensions = self.number("I")
        _check_most(dimensions, MOST_DIMENSIONS, "dimensions")
        shape = [self.number("Q") for _ in range(dimensions)]
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(self.number("I"))]
        last = self.number("Q") + prod(shape) * size // block
        if not all(shape) or not shape or last > self._size:
            raise ValueError(f"a tensor of shape {shape}, in {self._size} bytes")

    def _skip(self, length: int) -> None:
        self._check_room(length)
        self._file.seek(length, 1)

    def _check_room(self, length: int) -> None:
        if length > self._size - self._file.tell():
            raise ValueError(f"{length} bytes more in a header of {self._size}")


def _width(kind: int) -> int:
    width = WIDTHS.get(GGUFValueType(kind))
    if width is None:
        raise ValueError(f"a value of type {kind}")
    return width


def _check_most(count: int, most: int, what: str) -> None:
    if count > most:
        raise ValueError(f"{count} {what}, where no model has more than {most}")
