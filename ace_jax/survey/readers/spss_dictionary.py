"""The dictionary with which an SPSS file (.sav, .zsav) begins, walked before it is believed.

ReadStat, which reads such files, follows what value labels say of the variables that they belong
to; where a variable is none of the file's, it ends the whole program.
"""

import struct
from pathlib import Path
from typing import BinaryIO

HEADER = 176  # bytes before the first record
VARIABLE, LABELS, LABELLED, DOCUMENT, EXTENSION, END = 2, 3, 4, 6, 7, 999


def check_dictionary(path: Path) -> None:
    """Raises `ValueError` where a record runs over, or labels belong to a variable that is none."""
    with path.open("rb") as file:
        header = file.read(HEADER)
        records = _Records(file, "<" if header[64:66] in (b"\2\0", b"\3\0") else ">")
        variables = 0
        while (kind := records.number()) != END:
            if kind == VARIABLE:
                variables += 1
                records.variable()
            elif kind == LABELS:
                for _ in range(records.number()):
                    records.label()
            elif kind == LABELLED:
                for _ in range(records.number()):
                    if not 1 <= records.number() <= variables:
                        raise ValueError("labels of a variable that is none")
            elif kind == DOCUMENT:
                records.skip(80 * records.number())
            elif kind == EXTENSION:
                records.number()
                records.skip(records.number() * records.number())
            else:
                raise ValueError(f"a record of type {kind}")


class _Records:
    """A place in the dictionary, which only moves on."""

    def __init__(self, file: BinaryIO, order: str):
        self._file, self._number = file, struct.Struct(f"{order}i")

    def number(self) -> int:
        return int(self._number.unpack(self._take(4))[0])

    def variable(self) -> None:
        _, labelled, missing = (self.number() for _ in range(3))
        self.skip(16)  # formats and name
        if labelled:
            self.skip(-(-self.number() // 4) * 4)
        self.skip(8 * abs(missing))

    def label(self) -> None:
        self.skip(8)
        length = self._take(1)[0]
        self.skip((length + 8) // 8 * 8 - 1)

    def skip(self, length: int) -> None:
        if length < 0:
            raise ValueError("a record of negative length")
        self._file.seek(length, 1)

    def _take(self, length: int) -> bytes:
        taken = self._file.read(length)
        if len(taken) < length:
            raise ValueError("it ends before its dictionary does")
        return taken
