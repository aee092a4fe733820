"""The World Values Survey, wave 7, in the four forms in which its answers are handed out.

The cross-national file as .csv, .sav or .dta (columns by variable name, cells with codes), and a
single country's .csv: semicolons, headers such as "Q1 Important in life: Family", and labels in
the cells. Forms are told apart by content, whatever a file is called.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.codebook_file import BUILTIN, read_codebook
from ace_jax.survey.readers.tables import Raw, read_codes, stacked

WEIGHTS = ("W_WEIGHT", "S018", "PWGHT")
WHOLE = "the complete file of wave 7"
# In the standard edition 1 is "very important" (about nine in ten, everywhere a clear majority).
FAMILY = "Q1"
EDITION_MAJORITY = 0.5


def read(paths: Sequence[Path]) -> Raw:
    """Reads one cross-national file, or files of a country each.

    A file may lack questions and attributes: the table has the questions of any file, and what
    else all files have. The notes say of which files the edition could not be checked. Raises
    InputError for files of another form or of the inverted edition, labels that the codebook does
    not know, and a country that is there twice.
    """
    codebook = read_codebook(BUILTIN / "wvs7.toml")
    tables: list[pd.DataFrame] = []
    unchecked: list[str] = []
    files: dict[str, Path] = {}
    for path in paths:
        table = read_codes(path, codebook, WHOLE, [*WEIGHTS, *codebook.labels], _variable)
        if FAMILY in table:
            _check_edition(table[FAMILY], path)
        else:
            unchecked.append(path.name)
        for country in table[codebook.country_column].unique():
            if country in files:
                raise InputError(
                    f"{path} has respondents of {country}, as {files[country]} has; "
                    "give each country once"
                )
            files[country] = path
        tables.append(table)
    asked = [question.question_id for question in codebook.questions]
    warning = (
        f"without {FAMILY}, nothing shows whether {', '.join(unchecked)} is of the standard "
        "edition (in the inverted one, scales run the other way)"
    )
    notes = {"warnings": [warning]} if unchecked else {}
    return Raw(stacked(tables, asked), codebook, notes)


def _variable(header: str) -> str:
    return header.strip().partition(" ")[0]


def _check_edition(family: pd.Series, path: Path) -> None:
    answers = family[family > 0]
    share = float((answers == 1).mean())
    if not share > EDITION_MAJORITY:
        found = f"{share:.0%}" if len(answers) else "nobody"
        raise InputError(
            f"{path} seems to be the inverted edition: {found} of its respondents find family "
            f"very important ({FAMILY} = 1), where most should; download the standard edition"
        )
