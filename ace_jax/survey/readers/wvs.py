"""The World Values Survey, wave 7, in the four forms in which its answers are handed out.

The cross-national file as .csv, .sav or .dta (columns by variable name, cells with codes), and a
single country's .csv: semicolons, headers such as "Q1 Important in life: Family", and labels in
the cells. Forms are told apart by content, whatever a file is called.
"""

import re
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.codebook import BUILTIN, Code, Codebook, read_codebook
from ace_jax.survey.readers.delimited import header, read_csv
from ace_jax.survey.readers.spss_stata import (
    Reader,
    binary_reader,
    check_columns,
    codes,
    head,
    read_binary,
)

WEIGHTS = ("W_WEIGHT", "S018", "PWGHT")
WHOLE = "the complete file of wave 7"
# In the standard edition 1 is "very important" (about nine in ten, everywhere a clear majority).
FAMILY = "Q1"
EDITION_MAJORITY = 0.5

APOSTROPHES = str.maketrans(dict.fromkeys("\u00b4`\u2018\u2019", "'"))
LEADING_NUMBER = re.compile(r"^-?\d+[\s.:)\-]*(?=[^\d\s.:)\-])")


def read(paths: list[Path]) -> pd.DataFrame:
    """Returns one row a respondent: the columns of the codebook and the weights, with codes.

    `paths` are one cross-national file, or files of a country each. Raises InputError for a file
    that is of none of the forms, is damaged, lacks a column, holds labels where codes belong or a
    label that the codebook does not know, names no country, is of the inverted edition, or repeats
    a country.
    """
    codebook = read_codebook(BUILTIN / "wvs7.toml")
    tables: list[pd.DataFrame] = []
    files: dict[str, Path] = {}
    for path in paths:
        table = _read(path, codebook)
        _check_countries(table[codebook.country_column], path)
        _check_edition(table, path)
        for country in table[codebook.country_column].unique():
            if country in files:
                raise InputError(
                    f"{path} has respondents of {country}, as {files[country]} has; "
                    "give each country once"
                )
            files[country] = path
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def read_labels(paths: list[Path]) -> dict[str, dict[Code, str]]:
    """Returns the value labels that .sav or .dta files carry: column -> code -> label.

    Of several files the first that labels a column counts. Raises InputError for a .csv file.
    """
    labels: dict[str, dict[Code, str]] = {}
    for path in paths:
        reader = binary_reader(head(path))
        if reader is None:
            raise InputError(
                f"{path} carries no labels of its own for --labels file; "
                "give the .sav or .dta file, or leave --labels out"
            )
        _, metadata = read_binary(reader, path, metadataonly=True)
        labels = metadata.variable_value_labels | labels
    return labels


def _read(path: Path, codebook: Codebook) -> pd.DataFrame:
    needed = [
        str(codebook.country_column),
        *(recode.column for recode in codebook.recodes),
        *(question.question_id for question in codebook.questions if question.paper),
    ]
    reader = binary_reader(head(path))
    if reader is not None:
        return _coded(_read_binary(reader, path, needed), codebook, path)
    delimiter, names = _header(path, needed)
    check_columns(needed, names.values(), path, WHOLE)
    table = _read_csv(path, delimiter, names, needed, as_text=delimiter == ";")
    return (_unlabelled if delimiter == ";" else _coded)(table, codebook, path)


def _read_binary(reader: Reader, path: Path, needed: list[str]) -> pd.DataFrame:
    _, metadata = read_binary(reader, path, metadataonly=True)
    check_columns(needed, metadata.column_names, path, WHOLE)
    weights = [name for name in WEIGHTS if name in metadata.column_names]
    table, _ = read_binary(reader, path, usecols=[*needed, *weights])
    return table


def _header(path: Path, needed: list[str]) -> tuple[str, dict[str, str]]:
    """Returns a CSV file's delimiter, and the variable's name by header cell."""
    delimiter, names = header(path, needed, lambda cell: cell.strip().partition(" ")[0])
    if delimiter not in ",;":
        raise InputError(
            f"{path} separates its columns by {delimiter!r}; save it with commas, as the "
            "cross-national file comes"
        )
    return delimiter, names


def _read_csv(
    path: Path, delimiter: str, names: dict[str, str], needed: list[str], *, as_text: bool
) -> pd.DataFrame:
    wanted = {cell: name for cell, name in names.items() if name in {*needed, *WEIGHTS}}
    table = read_csv(
        path,
        delimiter,
        usecols=list(wanted),
        dtype=str if as_text else None,
        # A label such as "None" is an answer.
        keep_default_na=not as_text,
        na_values=[""],
    )
    return table.rename(columns=wanted)


def _coded(table: pd.DataFrame, codebook: Codebook, path: Path) -> pd.DataFrame:
    """Returns the table with numbers in every column but the country's."""
    columns: dict[str, pd.Series] = {}
    for name in table.columns:
        if name == codebook.country_column:
            columns[name] = table[name].astype(str).str.strip()
        else:
            columns[name] = codes(table[name], path)
    return pd.DataFrame(columns)


def _unlabelled(table: pd.DataFrame, codebook: Codebook, path: Path) -> pd.DataFrame:
    """Returns the table with codes in place of labels; weights become numbers."""
    columns: dict[str, pd.Series] = {}
    for name in table.columns:
        column = table[name]
        if name == codebook.country_column:
            columns[name] = column.str.strip()
        elif name in WEIGHTS:
            columns[name] = pd.to_numeric(column, errors="coerce")
        else:
            columns[name] = _codes(column, codebook.labels[name], path)
    return pd.DataFrame(columns)


def _codes(column: pd.Series, labels: tuple[tuple[Code, str], ...], path: Path) -> pd.Series:
    code_of = {_plain(label): code for code, label in reversed(labels)}
    numbers = {str(code): code for code, _ in labels}
    coded: dict[str, Code] = {}
    for cell in column.dropna().unique():
        label = _plain(cell)
        # "Very important", "1. Very important" and "1" all are code 1.
        short = LEADING_NUMBER.sub("", label)
        code = code_of.get(label, code_of.get(short, numbers.get(label)))
        if code is None:
            near = get_close_matches(label, list(code_of), 1)
            meant = f" (it knows {near[0]!r})" if near else ""
            raise InputError(
                f"{path}: column {column.name} holds the label {cell!r} "
                f"({int((column == cell).sum())} respondents), which the codebook does not "
                f"know{meant}; give the cross-national file"
            )
        coded[cell] = code
    return column.map(coded).astype("float64")


def _plain(label: str) -> str:
    return " ".join(label.translate(APOSTROPHES).casefold().split())


def _check_countries(column: pd.Series, path: Path) -> None:
    bad = column[~column.astype(str).str.fullmatch("[A-Z]{3}")]
    if len(bad):
        raise InputError(
            f"{path}: column {column.name} holds {bad.iloc[0]!r} ({len(bad)} respondents), which "
            "is no ISO 3166-1 alpha-3 code; correct it, or download the file again"
        )


def _check_edition(table: pd.DataFrame, path: Path) -> None:
    answers = table[FAMILY][table[FAMILY] > 0]
    share = float((answers == 1).mean())
    if not share > EDITION_MAJORITY:
        found = f"{share:.0%}" if len(answers) else "nobody"
        raise InputError(
            f"{path} seems to be the inverted edition: {found} of its respondents find family "
            f"very important ({FAMILY} = 1), where most should; download the standard edition"
        )
