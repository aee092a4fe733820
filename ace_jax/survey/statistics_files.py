"""Files of SPSS (.sav) and Stata (.dta), and what every survey's reader checks of a file."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd
import pyreadstat

from ace_jax.errors import InputError

Reader = Callable[..., Any]


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
    """Returns the table and pyreadstat's metadata; raises InputError for a damaged file."""
    try:
        table, metadata = reader(path, **options)
    except (pyreadstat.ReadstatError, pyreadstat.PyreadstatError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged or cut off ({error}); download it again") from None
    metadata_only = options.get("metadataonly", False)
    if not metadata_only and metadata.number_rows is not None and len(table) < metadata.number_rows:
        raise InputError(
            f"{path} is cut off: it has {len(table)} of {metadata.number_rows} respondents; "
            "download it again"
        )
    return table, metadata


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
