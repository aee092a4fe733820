"""Any survey: tables of codes, read with the user's own codebook."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ace_jax.survey.codebook import Codebook
from ace_jax.survey.readers.columns import read_columns
from ace_jax.survey.selection import Raw

WHOLE = "a file that has it, or change the codebook"


def read(paths: Sequence[Path], codebook: Codebook, weights: str | None = None) -> Raw:
    """Reads the codebook's columns and the weights; files are put one below the other.

    Raises InputError for a file that is of none of the forms, is damaged, or lacks a column.
    """
    needed = [
        *([codebook.country_column] if codebook.country_column else []),
        *(recode.column for recode in codebook.recodes),
        *(question.question_id for question in codebook.questions),
        *([weights] if weights else []),
    ]
    needed = list(dict.fromkeys(needed))  # a column may serve two attributes
    tables = [read_columns(path, needed, WHOLE) for path in paths]
    return Raw(pd.concat(tables, ignore_index=True), codebook)
