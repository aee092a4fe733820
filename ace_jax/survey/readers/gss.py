"""The General Social Survey of 2018, from three tables of the R package stevedata."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.codebook_file import BUILTIN, read_codebook
from ace_jax.survey.readers.tables import Raw, check_columns, read_table

YEAR = 2018
# A table is recognised by columns that the other two lack.
TABLES = {
    "gss_spending": ("id", "age", "sex", "degree", "xnorcsiz", "natspac"),
    "gss_wages": ("age", "gender", "educcat", "maritalcat"),
    "gss_abortion": ("id", "age", "sex", "relactiv", "abany"),
}
SEX = {0: "Male", 1: "Female"}
DEGREE = dict(
    enumerate(["Less Than High School", "High School", "Junior College", "Bachelor", "Graduate"])
)
FROM_ABORTION = [
    *("relactiv", "abany", "abdefect", "abnomore", "abhlth", "abpoor", "abrape", "absingle"),
]


def read(paths: Sequence[Path]) -> Raw:
    """Reads the respondents of 2018 from gss_spending.csv, gss_wages.csv and gss_abortion.csv.

    The tables share no key, so `read` checks that a row is the same respondent in all three (by
    id, age, sex and degree). Raises InputError for a file that is none of the three, one too many
    or too few, or rows that do not align.
    """
    tables: dict[str, pd.DataFrame] = {}
    for path in paths:
        columns, _ = read_table(path, needed=("year", "age"))
        table = pd.DataFrame({name: column.values for name, column in columns.items()})
        names = (name for name, its in TABLES.items() if {"year", *its} <= {*table.columns})
        name = next(names, None)
        if name is None or name in tables:
            what = "has the columns of none" if name is None else f"is a second {name}"
            raise InputError(f"{path} {what}; give each of {', '.join(TABLES)} (.csv) once")
        tables[name] = table[table["year"] == YEAR].reset_index(drop=True)
    if missing := [name for name in TABLES if name not in tables]:
        raise InputError(f"--input lacks {missing[0]}.csv; give {', '.join(TABLES)} (.csv)")
    spending, wages, abortion = (tables[name] for name in TABLES)
    check_columns(FROM_ABORTION, abortion.columns, Path("gss_abortion.csv"), "the whole table")
    coded = spending.assign(sex=spending["sex"].map(SEX), degree=spending["degree"].map(DEGREE))
    earners = wages.rename(columns={"gender": "sex", "educcat": "degree"})
    _check_aligned(coded, earners, "gss_wages", ["age", "sex", "degree"])
    _check_aligned(coded, abortion, "gss_abortion", ["id", "age", "sex"])
    joined = pd.concat([spending, wages[["maritalcat"]], abortion[FROM_ABORTION]], axis=1)
    notes = {"filters": [f"year == {YEAR}"]}
    return Raw(joined, read_codebook(BUILTIN / "gss2018.toml"), notes)


def _check_aligned(spending: pd.DataFrame, other: pd.DataFrame, name: str, by: list[str]) -> None:
    if len(spending) != len(other):
        raise InputError(
            f"gss_spending has {len(spending)} rows of {YEAR}, {name} {len(other)}; give complete "
            "tables"
        )
    for column in by:
        left, right = spending[column], other[column]
        differ = (left != right) & ~(left.isna() & right.isna())
        if differ.any():
            raise InputError(
                f"{column} (gss_spending, {name}) differs in {int(differ.sum())} rows of {YEAR}, "
                f"first in row {int(differ.argmax())}; give the tables in their original row order"
            )
