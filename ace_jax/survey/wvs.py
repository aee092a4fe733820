"""The World Values Survey, wave 7, in the four forms in which its answers are handed out.

The cross-national file as .csv, .sav or .dta (columns by variable name, cells with codes), and a
single country's .csv: semicolons, headers such as "Q1 Important in life: Family", and labels in
the cells. Forms are told apart by content, whatever a file is called.
"""

import csv
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd
import pyreadstat

from ace_jax.errors import InputError
from ace_jax.survey.codebook import CODEBOOKS, Code, Codebook, read_codebook

FILTERS: tuple[str, ...] = ()
WEIGHTS = ("W_WEIGHT", "S018", "PWGHT")
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
    codebook = read_codebook(CODEBOOKS / "wvs7.toml")
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
        reader = _binary_reader(_head(path))
        if reader is None:
            raise InputError(
                f"{path} carries no labels of its own for --labels file; "
                "give the .sav or .dta file, or leave --labels out"
            )
        _, metadata = _binary(reader, path, metadataonly=True)
        labels = metadata.variable_value_labels | labels
    return labels


def _read(path: Path, codebook: Codebook) -> pd.DataFrame:
    needed = [
        str(codebook.country_column),
        *(recode.column for recode in codebook.recodes),
        *(question.question_id for question in codebook.questions if question.paper),
    ]
    head = _head(path)
    reader = _binary_reader(head)
    if reader is not None:
        return _coded(_read_binary(reader, path, needed), codebook, path)
    delimiter, names = _header(path, needed)
    _check_columns(needed, names.values(), path)
    table = _read_csv(path, delimiter, names, needed, as_text=delimiter == ";")
    return (_unlabelled if delimiter == ";" else _coded)(table, codebook, path)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not head.strip():
        raise InputError(f"{path} is empty; download it again")
    return head


def _binary_reader(head: bytes) -> Callable[..., Any] | None:
    if head[:4] in (b"$FL2", b"$FL3"):
        return pyreadstat.read_sav
    old_stata = head[0] in (113, 114, 115) and head[1] in (1, 2) and head[2] == 1
    return pyreadstat.read_dta if head.startswith(b"<stata_dta>") or old_stata else None


def _binary(reader: Callable[..., Any], path: Path, **options: Any) -> tuple[pd.DataFrame, Any]:
    try:
        return reader(path, **options)
    except (pyreadstat.ReadstatError, pyreadstat.PyreadstatError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged or cut off ({error}); download it again") from None


def _read_binary(reader: Callable[..., Any], path: Path, needed: list[str]) -> pd.DataFrame:
    _, metadata = _binary(reader, path, metadataonly=True)
    _check_columns(needed, metadata.column_names, path)
    weights = [name for name in WEIGHTS if name in metadata.column_names]
    table, _ = _binary(reader, path, usecols=[*needed, *weights])
    if metadata.number_rows is not None and len(table) < metadata.number_rows:
        raise InputError(
            f"{path} is cut off: it has {len(table)} of {metadata.number_rows} respondents; "
            "download it again"
        )
    return table


def _header(path: Path, needed: list[str]) -> tuple[str, dict[str, str]]:
    """Returns a CSV file's delimiter, and the variable's name by header cell."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    rows = {
        delimiter: {
            cell: cell.strip().partition(" ")[0]
            for cell in next(csv.reader([line], delimiter=delimiter), [])
        }
        for delimiter in ",;\t|"
    }
    delimiter = max(rows, key=lambda one: len({*rows[one].values()} & {*needed}))
    if delimiter not in ",;":
        raise InputError(
            f"{path} separates its columns by {delimiter!r}; save it with commas, as the "
            "cross-national file comes"
        )
    return delimiter, rows[delimiter]


def _read_csv(
    path: Path, delimiter: str, names: dict[str, str], needed: list[str], *, as_text: bool
) -> pd.DataFrame:
    wanted = {cell: name for cell, name in names.items() if name in {*needed, *WEIGHTS}}
    try:
        table = pd.read_csv(
            path,
            sep=delimiter,
            usecols=list(wanted),
            encoding="utf-8-sig",
            dtype=str if as_text else None,
            # A label such as "None" is an answer.
            keep_default_na=not as_text,
            na_values=[""],
            low_memory=False,
        )
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path} is not a CSV file: {str(error).splitlines()[0]}") from None
    if table.empty:
        raise InputError(f"{path} has a header and no respondents; download it again")
    return table.rename(columns=wanted)


def _not_utf8(path: Path, error: UnicodeDecodeError) -> InputError:
    byte = error.object[error.start]
    return InputError(
        f"{path} is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8, or download it again"
    )


def _check_columns(needed: list[str], found: Iterable[str], path: Path) -> None:
    has = list(found)
    missing = [name for name in needed if name not in {*has}]
    if missing:
        near = get_close_matches(missing[0], has, 1)
        nearest = f"the nearest it has is {near[0]}" if near else "it has none like it"
        raise InputError(
            f"{path} lacks the column {missing[0]} ({len(missing)} of {len(needed)} are missing); "
            f"{nearest}; give the complete file of wave 7"
        )


def _coded(table: pd.DataFrame, codebook: Codebook, path: Path) -> pd.DataFrame:
    """Returns the table with numbers in every column but the country's."""
    columns: dict[str, pd.Series] = {}
    for name in table.columns:
        column = table[name]
        if name == codebook.country_column:
            columns[name] = column.astype(str).str.strip()
            continue
        columns[name] = pd.to_numeric(column, errors="coerce")
        text = column[columns[name].isna() & column.notna()].astype(str)
        text = text[text.str.strip() != ""]
        if len(text):
            raise InputError(
                f"{path}: column {name} holds the text {text.iloc[0]!r} ({len(text)} respondents) "
                "where codes are expected; export the file with codes, not labels"
            )
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
