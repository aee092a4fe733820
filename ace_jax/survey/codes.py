"""What a code is: one rule for every reader, column and file.

A cell is the text code that it spells exactly, else the number that it is, else the code of which
it is the one label ("Very important", "1. very important"). 1, 1.0, "1" and " 1" spell one code.
A blank cell is missing, and so is one of GAPS that the codebook does not declare.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ace_jax.errors import InputError

Code = int | float | str
BLANK = ""  # the code of a blank cell, where a codebook declares it

# What programs write where they have no value.
GAPS = frozenset(
    ["NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "#NULL!", ".", BLANK]
)
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
LEADING_NUMBER = re.compile(r"^-?\d+[\s.:)\-]*(?=[^\d\s.:)\-])")
DATE = re.compile(r"\d{1,2}[-. ]+[A-Z][a-z]{2}|[A-Z][a-z]{2}-\d\d|\d{4}-\d\d-\d\d.*")
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+", re.ASCII)
APOSTROPHES = str.maketrans(dict.fromkeys("\u00b4`\u2018\u2019", "'"))


def spelling(code: Any) -> str:
    """Returns the text that all spellings of a code have in common: "1" of 1, 1.0 and " 1"."""
    if isinstance(code, str):
        return code.strip()
    return str(int(code)) if float(code).is_integer() else repr(float(code))


def codes(
    column: pd.Series,
    where: object,
    labels: Sequence[tuple[Code, str]] = (),
    decimal: str = ".",
) -> pd.Series:
    """Returns a file's column with a code in each cell (number or text), missing where it has none.

    Args:
      column: cells of any type.
      where: the file, for messages.
      labels: the codes that the codebook declares, each with a label; a text labels itself.
      decimal: the sign before a number's decimals.

    Raises InputError for a text that is neither a code nor the label of one, and for infinity.
    """
    texts = {spelling(code): code for code, _ in labels if isinstance(code, str)}
    is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if is_number and not any(text == BLANK or NUMBER.fullmatch(text) for text in texts):
        if pd.api.types.is_float_dtype(column) and np.isinf(column).any():
            raise InputError(f"{where}: column {column.name} holds infinity; correct it")
        return column
    named: dict[str, set[Code]] = {}  # several codes may have the same label
    for code, label in labels:
        if code != label:
            named.setdefault(plain(label), set()).add(code)
    column = column.astype(object)
    if BLANK in texts:
        column = column.where(column.notna(), BLANK)
    coded: dict[Any, Code | None] = {}
    for cell in column.dropna().unique():
        text = spelling(cell) if is_number else str(cell).strip()
        number = text.replace(decimal, ".")
        label = plain(text)
        its = named.get(label) or named.get(LEADING_NUMBER.sub("", label), set())
        if text in texts:
            coded[cell] = texts[text]
        elif NUMBER.fullmatch(number):
            value = float(number)
            coded[cell] = texts.get(spelling(value), value) if np.isfinite(value) else None
        elif len(its) == 1:
            coded[cell] = next(iter(its))
        elif text in GAPS:
            coded[cell] = texts.get(BLANK)
        if text not in GAPS and coded.get(cell) is None:
            raise InputError(
                f"{where}: column {column.name} holds the text {text!r:.40} "
                f"({int((column == cell).sum())} respondents), which is no code and not the label "
                f"of one; {_remedy(text)}"
            )
    return column.map(coded)


def spaced(text: str) -> str:
    """Returns a text with single blanks and one kind of apostrophe."""
    return " ".join(text.translate(APOSTROPHES).split())


def plain(label: str) -> str:
    """Returns what two spellings of a label have in common."""
    return spaced(label).casefold()


def _remedy(text: str) -> str:
    if DECIMAL_COMMA.fullmatch(text):
        return "for a decimal comma give decimal = ',' in the codebook"
    if DATE.fullmatch(text):
        return "Excel makes dates of codes such as 1-2: export the column as text"
    return "declare it in the codebook, or export the file with codes, not labels"
