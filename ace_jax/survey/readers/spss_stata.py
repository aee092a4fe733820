"""Files of SPSS (.sav) and Stata (.dta), and what every survey's reader checks of a file."""

import os
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd
import pyreadstat

from ace_jax.errors import InputError
from ace_jax.survey.readers.spss_dictionary import check_dictionary

Reader = Callable[..., Any]

# What pyreadstat raises: its own errors, and what its arrays do where counts do not agree.
DAMAGE = (
    pyreadstat.ReadstatError,
    pyreadstat.PyreadstatError,
    ArithmeticError,
    LookupError,
    MemoryError,
    ValueError,
)
BYTES = 8  # of a number in memory
DEFLATED = 1032  # the most bytes that zlib makes of one


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


def binary_reader(first: bytes) -> Reader | None:
    """Returns pyreadstat's reader of files that begin so, or None if they are of neither form."""
    if first[:4] in (b"$FL2", b"$FL3"):
        return pyreadstat.read_sav
    old_stata = first[0] in (113, 114, 115) and first[1] in (1, 2) and first[2] == 1
    return pyreadstat.read_dta if first.startswith(b"<stata_dta>") or old_stata else None


def read_binary(reader: Reader, path: Path, **options: Any) -> tuple[pd.DataFrame, Any]:
    """Returns the table and pyreadstat's metadata.

    Raises InputError for a damaged file, or for one that says it has more than it can hold: room
    for as many respondents as it says is made before the first one is read.
    """
    metadata_only = options.get("metadataonly", False)
    if not metadata_only:
        _, metadata = _read(reader, path, metadataonly=True)
        _check_rows(metadata, path)
        columns = options.get("usecols") or metadata.column_names
        check_fits((metadata.number_rows or 0) * len(columns), path)
    table, metadata = _read(reader, path, **options)
    if not metadata_only and metadata.number_rows is not None and len(table) < metadata.number_rows:
        raise InputError(
            f"{path} is cut off: it has {len(table)} of {metadata.number_rows} respondents; "
            "download it again"
        )
    return table, metadata


def check_fits(values: int, path: Path) -> None:
    """Raises InputError where as many numbers do not fit into this machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if BYTES * values > memory:
        raise InputError(
            f"{path} says it has {values} values, which do not fit into this machine's memory of "
            f"{memory >> 30} GiB; download it again, or take columns or respondents out"
        )


def _read(reader: Reader, path: Path, **options: Any) -> tuple[pd.DataFrame, Any]:
    try:
        if reader is pyreadstat.read_sav:
            check_dictionary(path)
        table, metadata = reader(path, **options)
        if None in metadata.column_names:
            raise ValueError("a variable without a name")
        return table, metadata
    except DAMAGE as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is damaged or cut off ({reason}); download it again") from None


def _check_rows(metadata: Any, path: Path) -> None:
    deflated = head(path).startswith(b"$FL3")
    rows = metadata.number_rows
    if rows is None and deflated:
        raise InputError(f"{path} does not say how many respondents it has; save it as .sav")
    # In either form a value takes a byte at least.
    most = path.stat().st_size * (DEFLATED if deflated else 1)
    if rows is not None and rows * len(metadata.column_names) > most:
        raise InputError(
            f"{path} says it has {rows} respondents, more than its {path.stat().st_size} bytes "
            "can hold; download it again"
        )


def check_columns(needed: list[str], found: Iterable[str], path: Path, whole: str) -> None:
    """Raises InputError naming the first column that is not there; `whole` is the file to give."""
    has = list(found)
    missing = [name for name in needed if name not in {*has}]
    if missing:
        near = get_close_matches(missing[0], has, 1, cutoff=0.4)  # names are short
        nearest = f"the nearest it has is {near[0]}" if near else "it has none like it"
        raise InputError(
            f"{path} lacks the column {missing[0]} ({len(missing)} of {len(needed)} are missing); "
            f"{nearest}; give {whole}"
        )


def codes(column: pd.Series, path: Path) -> pd.Series:
    """Returns the column as numbers; raises InputError if it holds text."""
    numbers = pd.to_numeric(column, errors="coerce")
    text = column[numbers.isna() & column.notna()].astype(str)
    text = text[text.str.strip() != ""]
    if len(text):
        raise InputError(
            f"{path}: column {column.name} holds the text {text.iloc[0]!r} ({len(text)} "
            "respondents) where codes are expected; export the file with codes, not labels"
        )
    return numbers
