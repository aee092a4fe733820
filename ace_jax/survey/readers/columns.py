"""Columns of a file of any form: CSV, Parquet, SPSS or Stata, told apart by content."""

import csv
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ace_jax.errors import InputError
from ace_jax.survey.readers.spss_stata import check_fits, head, open_statistics

DELIMITERS = ",;\t|"


def read_columns(
    path: Path, needed: Sequence[str], whole: str, optional: Collection[str] = ()
) -> pd.DataFrame:
    """Returns the `needed` columns, and those of the `optional` ones that the file has.

    Raises InputError for a file of none of the forms, a damaged one, or one that lacks a column;
    the message then asks for `whole`.
    """
    if file := open_statistics(path):
        found = file.metadata.column_names
        check_columns(needed, found, path, whole)
        return file.read([*needed, *(name for name in optional if name in found)])[0]
    if head(path).startswith(b"PAR1"):
        return _read_parquet(path, needed, whole, optional)
    delimiter, names = csv_header(path, needed)
    check_columns(needed, names.values(), path, whole)
    wanted = {*needed, *optional}
    return read_csv(path, delimiter, {cell: of for cell, of in names.items() if of in wanted})


def csv_header(
    path: Path, needed: Collection[str], variable: Callable[[str], str] = str.strip
) -> tuple[str, dict[str, str]]:
    """Returns a CSV file's delimiter, and the variable's name by header cell.

    The delimiter is the one under which most of the `needed` names are there. `variable` makes a
    variable's name of a header cell. Raises InputError for a file not in UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    rows = {
        delimiter: {
            cell: variable(cell) for cell in next(csv.reader([line], delimiter=delimiter), [])
        }
        for delimiter in DELIMITERS
    }
    delimiter = max(rows, key=lambda one: len({*rows[one].values()} & {*needed}))
    return delimiter, rows[delimiter]


def read_csv(
    path: Path, delimiter: str, names: Mapping[str, str] | None = None, **options: Any
) -> pd.DataFrame:
    """Returns a CSV file's table: the columns of `names` (header cell -> name), or all.

    `options` are pandas'. Raises InputError for a file that is not there, not in UTF-8, no CSV
    file, or without rows.
    """
    if names is not None:
        options["usecols"] = list(names)
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
    return table.rename(columns=dict(names or {}))


def check_columns(needed: Sequence[str], found: Iterable[str], path: Path, whole: str) -> None:
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


def _read_parquet(
    path: Path, needed: Sequence[str], whole: str, optional: Collection[str]
) -> pd.DataFrame:
    try:
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        check_columns(needed, schema.names, path, whole)
        wanted = [*needed, *(name for name in optional if name in schema.names)]
        if nested := [name for name in wanted if pa.types.is_nested(schema.field(name).type)]:
            raise InputError(f"{path}: column {nested[0]} holds lists or records; give it codes")
        check_fits(metadata.num_rows * len(wanted), path)
        # Without pandas' notes in the file, which damage may have reached.
        return pq.read_table(path, columns=wanted).replace_schema_metadata(None).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a Parquet file ({reason:.200}); save it again") from None


def _not_utf8(path: Path, error: UnicodeDecodeError) -> InputError:
    byte = error.object[error.start]
    return InputError(
        f"{path} is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8, or download it again"
    )
