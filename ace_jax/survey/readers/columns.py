"""A file's columns with all that it says of them, for a draft of its codebook."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ace_jax.survey.codes import GAPS
from ace_jax.survey.readers import kinds
from ace_jax.survey.readers.sheets import read_r, read_sheet
from ace_jax.survey.readers.statistics import STATISTICS, read_statistics
from ace_jax.survey.readers.tables import check_columns, read_csv, read_header, read_parquet
from ace_jax.survey.readers.value_labels import Labels, Ranges


@dataclass(frozen=True)
class Column:
    """A column of the file: its values, and what the file says of them."""

    name: str
    values: pd.Series
    text: str
    labels: Labels
    ranges: Ranges


def _whole(path: Path) -> tuple[pd.DataFrame, Any]:
    """Returns a file's table, and pyreadstat's metadata of it where it has some."""
    kind = kinds.kind_of(path)
    if kind in STATISTICS:
        return read_statistics(path, list, user_missing=True)
    if kind == kinds.PARQUET:
        return read_parquet(path, list).to_pandas(), None
    if kind != kinds.CSV:
        return (read_sheet if kind == kinds.SHEET else read_r)(path, list), None
    header = read_header(path, ())
    named = [*filter(None, header.names)]
    check_columns(named, named, path, "a file that has it once")
    return read_csv(path, lambda _: named, header), None


def columns_of(path: Path) -> list[Column]:
    """Returns a file's columns; raises InputError for one that cannot be read."""
    table, metadata = _whole(path)
    texts = getattr(metadata, "column_names_to_labels", {})
    labels = getattr(metadata, "variable_value_labels", {})
    ranges = getattr(metadata, "missing_ranges", {})
    return [
        Column(
            str(name),
            _cells(values),
            texts.get(name) or str(name),
            labels.get(name, {}),
            # A text that a file declares missing has no place on a scale.
            [one for one in ranges.get(name, []) if not isinstance(one["lo"], str)],
        )
        for name, values in table.items()
    ]


def _cells(values: pd.Series) -> pd.Series:
    """Returns cells without what programs write for none; true and false are texts."""
    if pd.api.types.is_bool_dtype(values):
        return values.astype(str)
    if pd.api.types.is_numeric_dtype(values):
        return values
    return values.mask(values.astype(str).str.strip().isin(GAPS))
