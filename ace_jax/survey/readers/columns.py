"""A file's columns with all that it says of them, for a draft of its codebook."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ace_jax.survey.codebook import Form
from ace_jax.survey.codes import GAPS
from ace_jax.survey.readers.tables import check_columns, read_table
from ace_jax.survey.readers.value_labels import Labels, Ranges


@dataclass(frozen=True)
class Column:
    """A column of the file: its values, and what the file says of them."""

    name: str
    values: pd.Series
    text: str
    labels: Labels
    ranges: Ranges


def columns_of(path: Path, form: Form) -> list[Column]:
    """Returns a file's columns; raises InputError for one that cannot be read."""

    def named(found: Sequence[str]) -> list[str]:
        names = [*filter(None, found)]
        check_columns(names, names, path, "a file that has it once")
        return names

    table, metadata = read_table(path, named, form)
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
