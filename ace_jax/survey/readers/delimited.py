"""CSV files, whatever separates their columns."""

import csv
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pandas as pd

from ace_jax.errors import InputError

DELIMITERS = ",;\t|"


def header(
    path: Path, needed: Collection[str], name: Callable[[str], str] = str.strip
) -> tuple[str, dict[str, str]]:
    """Returns a file's delimiter, and the variable's name by header cell.

    Of the delimiters it is the one under which most of the `needed` names are there.
    `name` makes a variable's name of a header cell. Raises InputError for a file not in UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    rows = {
        delimiter: {cell: name(cell) for cell in next(csv.reader([line], delimiter=delimiter), [])}
        for delimiter in DELIMITERS
    }
    delimiter = max(rows, key=lambda one: len({*rows[one].values()} & {*needed}))
    return delimiter, rows[delimiter]


def read_csv(path: Path, delimiter: str, **options: Any) -> pd.DataFrame:
    """Returns the table; `options` are pandas'.

    Raises InputError for a file that is not there, not in UTF-8, no CSV file, or without rows.
    """
    try:
        table = pd.read_csv(path, sep=delimiter, encoding="utf-8-sig", low_memory=False, **options)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path} is not a CSV file: {str(error).splitlines()[0]}") from None
    if table.empty:
        raise InputError(f"{path} has a header and no respondents; download it again")
    return table


def _not_utf8(path: Path, error: UnicodeDecodeError) -> InputError:
    byte = error.object[error.start]
    return InputError(
        f"{path} is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8, or download it again"
    )
