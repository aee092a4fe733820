"""The World Values Survey, wave 7, in the four forms in which its answers are handed out.

The cross-national file as .csv, .sav or .dta (columns by variable name, cells with codes), and a
single country's .csv: semicolons, headers such as "Q1 Important in life: Family", and labels in
the cells. Forms are told apart by content, whatever a file is called.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ace_jax.errors import InputError, check_known
from ace_jax.survey.codebook import BUILTIN, Code, Codebook, read_codebook
from ace_jax.survey.readers.tables import (
    Raw,
    check_columns,
    codes,
    csv_header,
    open_statistics,
    read_columns,
    read_csv,
)
from ace_jax.survey.readers.value_labels import APOSTROPHES

WEIGHTS = ("W_WEIGHT", "S018", "PWGHT")
WHOLE = "the complete file of wave 7"
# In the standard edition 1 is "very important" (about nine in ten, everywhere a clear majority).
FAMILY = "Q1"
EDITION_MAJORITY = 0.5
LEADING_NUMBER = re.compile(r"^-?\d+[\s.:)\-]*(?=[^\d\s.:)\-])")


def read(paths: Sequence[Path]) -> Raw:
    """Reads one cross-national file, or files of a country each.

    Raises InputError for files of another form or of the inverted edition, labels that the codebook
    does not know, and a country that is there twice.
    """
    codebook = read_codebook(BUILTIN / "wvs7.toml")
    tables: list[pd.DataFrame] = []
    files: dict[str, Path] = {}
    for path in paths:
        table = _read(path, codebook)
        _check_edition(table[FAMILY], path)
        for country in table[codebook.country_column].unique():
            if country in files:
                raise InputError(
                    f"{path} has respondents of {country}, as {files[country]} has; "
                    "give each country once"
                )
            files[country] = path
        tables.append(table)
    return Raw(pd.concat(tables, ignore_index=True), codebook)


def _read(path: Path, codebook: Codebook) -> pd.DataFrame:
    """Returns the table with numbers in every column but the country's."""
    country = str(codebook.country_column)
    questions = (question.question_id for question in codebook.questions if question.paper)
    needed = [country, *(recode.column for recode in codebook.recodes), *questions]
    has_labels = False
    if open_statistics(path):
        table = read_columns(path, needed, WHOLE, WEIGHTS)
    else:
        delimiter, names = csv_header(path, needed, lambda cell: cell.strip().partition(" ")[0])
        if delimiter not in ",;":
            raise InputError(
                f"{path} separates its columns by {delimiter!r}; save it with commas, as the "
                "cross-national file comes"
            )
        check_columns(needed, names.values(), path, WHOLE)
        wanted = {cell: name for cell, name in names.items() if name in {*needed, *WEIGHTS}}
        has_labels = delimiter == ";"
        # A label such as "None" is an answer.
        text = {"dtype": str, "keep_default_na": False, "na_values": [""]} if has_labels else {}
        table = read_csv(path, delimiter, wanted, **text)
    columns: dict[str, pd.Series] = {}
    for name in table.columns:
        if name == country:
            columns[name] = table[name].astype(str).str.strip()
        elif has_labels and name not in WEIGHTS:
            columns[name] = _codes(table[name], codebook.labels[name], path)
        else:
            columns[name] = codes(table[name], path)
    return pd.DataFrame(columns)


def _codes(column: pd.Series, labels: tuple[tuple[Code, str], ...], path: Path) -> pd.Series:
    code_of = {_plain(label): code for code, label in reversed(labels)}
    numbers = {str(code): code for code, _ in labels}
    coded: dict[str, Code | None] = {}
    for cell in column.dropna().unique():
        label = _plain(cell)
        # "Very important", "1. Very important" and "1" all are code 1.
        short = LEADING_NUMBER.sub("", label)
        code = code_of.get(label, code_of.get(short, numbers.get(label)))
        if code is None:
            check_known(label, code_of, f"{path}: column {column.name}")
        coded[cell] = code
    return column.map(coded).astype("float64")


def _plain(label: str) -> str:
    return " ".join(label.translate(APOSTROPHES).casefold().split())


def _check_edition(family: pd.Series, path: Path) -> None:
    answers = family[family > 0]
    share = float((answers == 1).mean())
    if not share > EDITION_MAJORITY:
        found = f"{share:.0%}" if len(answers) else "nobody"
        raise InputError(
            f"{path} seems to be the inverted edition: {found} of its respondents find family "
            f"very important ({FAMILY} = 1), where most should; download the standard edition"
        )
