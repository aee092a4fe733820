"""Files of SPSS (.sav, .zsav) and Stata (.dta), checked before a library trusts them."""

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyreadstat

from ace_jax.errors import InputError

# The errors that pyreadstat raises for a damaged file, itself or through its arrays.
DAMAGE = (
    pyreadstat.ReadstatError,
    pyreadstat.PyreadstatError,
    ArithmeticError,
    LookupError,
    MemoryError,
    ValueError,
)
BYTES = 8  # of a number in memory
DEFLATED = 1032  # zlib packs at most so many bytes into one
SAV_HEADER = 176  # bytes before the first record of a .sav file


@dataclass(frozen=True)
class StatisticsFile:
    """A .sav or .dta file.

    Attributes:
      path: where it is.
      reader: pyreadstat's function that reads it.
      metadata: pyreadstat's metadata of all columns.
    """

    path: Path
    reader: Callable[..., Any]
    metadata: Any

    def read(self, columns: Sequence[str], *, user_missing: bool = False) -> tuple[Any, Any]:
        """Returns some columns as a table, and pyreadstat's metadata of them.

        With `user_missing`, codes that a .sav file declares missing are read as codes. (Stata's
        own missing values always are missing.)

        Raises InputError for a damaged file, or for one that claims more respondents than it can
        hold: pyreadstat makes room for all of them before it reads the first.
        """
        path, rows = self.path, self.metadata.number_rows
        deflated = head(path).startswith(b"$FL3")
        if rows is None and deflated:
            raise InputError(f"{path} does not say how many respondents it has; save it as .sav")
        # In either form a value takes a byte at least.
        size = path.stat().st_size
        if (rows or 0) * len(self.metadata.column_names) > size * (DEFLATED if deflated else 1):
            raise InputError(
                f"{path} says it has {rows} respondents, more than its {size} bytes can hold; "
                "download it again"
            )
        check_fits((rows or 0) * len(columns), path)
        options = {"user_missing": True} if user_missing and self._is_sav else {}
        table, metadata = _read(self.reader, path, usecols=list(columns), **options)
        if rows is not None and len(table) < rows:
            raise InputError(
                f"{path} is cut off: it has {len(table)} of {rows} respondents; download it again"
            )
        return table, metadata

    @property
    def _is_sav(self) -> bool:
        return self.reader is pyreadstat.read_sav


def open_statistics(path: Path) -> StatisticsFile | None:
    """Reads a file's metadata; returns None for a file of neither form, whatever its name.

    Raises InputError for a file that is not there, is empty or is damaged.
    """
    first = head(path)
    old_stata = first[0] in (113, 114, 115) and first[1:2] in (b"\1", b"\2") and first[2:3] == b"\1"
    if first.startswith((b"$FL2", b"$FL3")):
        reader = pyreadstat.read_sav
    elif first.startswith(b"<stata_dta>") or old_stata:
        reader = pyreadstat.read_dta
    else:
        return None
    return StatisticsFile(path, reader, _read(reader, path, metadataonly=True)[1])


def head(path: Path) -> bytes:
    """Returns the first bytes of a file; raises InputError if it is not there or is empty."""
    try:
        with path.open("rb") as file:
            first = file.read(64)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not first.strip():
        raise InputError(f"{path} is empty; download it again")
    return first


def check_fits(values: int, path: Path) -> None:
    """Raises InputError where so many numbers do not fit into this machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if BYTES * values > memory:
        raise InputError(
            f"{path} says it has {values} values, which do not fit into this machine's memory of "
            f"{memory >> 30} GiB; download it again, or take columns or respondents out"
        )


def _read(reader: Callable[..., Any], path: Path, **options: Any) -> tuple[pd.DataFrame, Any]:
    try:
        if reader is pyreadstat.read_sav:
            _check_dictionary(path)
        table, metadata = reader(path, **options)
        if None in metadata.column_names:
            raise ValueError("a variable without a name")
        return table, metadata
    except DAMAGE as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is damaged or cut off ({reason}); download it again") from None


def _check_dictionary(path: Path) -> None:
    """Walks the records at the start of a .sav file; raises ValueError for broken ones.

    ReadStat looks up the variables that value labels name. Where the file has no such variable,
    it reads beyond its memory and ends the whole program.
    """
    with path.open("rb") as file:
        order = "<" if file.read(SAV_HEADER)[64:66] in (b"\2\0", b"\3\0") else ">"

        def take(form: str) -> int:
            content = file.read(struct.calcsize(form))
            if len(content) < struct.calcsize(form):
                raise ValueError("it ends before its dictionary does")
            return int(struct.unpack(order + form, content)[0])

        def skip(length: int) -> None:
            if length < 0:
                raise ValueError("a record of negative length")
            file.seek(length, 1)

        variables = 0
        while (kind := take("i")) != 999:  # the end of the dictionary
            if kind == 2:  # a variable: width, has a label, number of missing values
                variables += 1
                _, labelled, missing = take("i"), take("i"), take("i")
                skip(16)  # formats and name
                if labelled:
                    skip(-(-take("i") // 4) * 4)
                skip(8 * abs(missing))
            elif kind == 3:  # value labels: value, length, text padded to 8 bytes
                for _ in range(take("i")):
                    skip(8)
                    skip((take("B") + 8) // 8 * 8 - 1)
            elif kind == 4:  # the variables of these labels
                for _ in range(take("i")):
                    if not 1 <= take("i") <= variables:
                        raise ValueError("labels of a variable that is not in the file")
            elif kind == 6:  # a document of lines
                skip(80 * take("i"))
            elif kind == 7:  # an extension: subtype, size, count
                take("i")
                skip(take("i") * take("i"))
            else:
                raise ValueError(f"a record of type {kind}")
