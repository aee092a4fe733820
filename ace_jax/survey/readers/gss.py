"""The General Social Survey of 2018, from three tables of the R package stevedata."""

from pathlib import Path

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.readers.delimited import read_csv
from ace_jax.survey.readers.spss_stata import check_columns

YEAR = 2018
FILTER = f"year == {YEAR}"

# A table is recognised by columns that the other two lack.
TABLES = {
    "gss_spending": ("id", "age", "sex", "degree", "xnorcsiz", "natspac"),
    "gss_wages": ("age", "gender", "educcat", "maritalcat"),
    "gss_abortion": ("id", "age", "sex", "relactiv", "abany"),
}
SEX = {0: "Male", 1: "Female"}
DEGREE = {
    0: "Less Than High School",
    1: "High School",
    2: "Junior College",
    3: "Bachelor",
    4: "Graduate",
}
FROM_ABORTION = [
    "relactiv",
    *("abany", "abdefect", "abnomore", "abhlth", "abpoor", "abrape", "absingle"),
]


def read(paths: list[Path]) -> pd.DataFrame:
    """Returns the raw table of 2018: one row a respondent, columns and codes as in the files.

    `paths` are gss_spending.csv, gss_wages.csv and gss_abortion.csv in any order. The tables
    share no key, so that a row is the same respondent in all three is checked (id, age, sex,
    degree). Raises InputError for a file that is none of the three, one too many or too few,
    or rows that do not align.
    """
    tables: dict[str, pd.DataFrame] = {}
    for path in paths:
        table = read_csv(path, ",")
        name = _recognise(table, path)
        if name in tables:
            raise InputError(f"{path} is a second {name}; give each of the three tables once")
        tables[name] = table[table["year"] == YEAR].reset_index(drop=True)
    if missing := [name for name in TABLES if name not in tables]:
        raise InputError(f"--input lacks {missing[0]}.csv; give {', '.join(TABLES)} (.csv)")
    spending, wages, abortion = (tables[name] for name in TABLES)
    check_columns(FROM_ABORTION, abortion.columns, Path("gss_abortion.csv"), "the whole table")
    _check_aligned(spending, wages, abortion)
    return pd.concat([spending, wages[["maritalcat"]], abortion[FROM_ABORTION]], axis=1)


def _recognise(table: pd.DataFrame, path: Path) -> str:
    for name, columns in TABLES.items():
        if {"year", *columns} <= set(table.columns):
            return name
    raise InputError(
        f"{path} has the columns of none of {', '.join(TABLES)}; export those tables as CSV"
    )


def _check_aligned(spending: pd.DataFrame, wages: pd.DataFrame, abortion: pd.DataFrame) -> None:
    lengths = [len(table) for table in (spending, wages, abortion)]
    if min(lengths) < max(lengths):
        raise InputError(f"the tables have {lengths} rows of {YEAR}; give complete tables")
    sex = spending["sex"].map(SEX)
    for name, left, right in (
        ("id (gss_spending, gss_abortion)", spending["id"], abortion["id"]),
        ("age (gss_spending, gss_wages)", spending["age"], wages["age"]),
        ("age (gss_spending, gss_abortion)", spending["age"], abortion["age"]),
        ("sex (gss_spending, gss_wages)", sex, wages["gender"]),
        ("sex (gss_spending, gss_abortion)", sex, abortion["sex"]),
        ("degree (gss_spending, gss_wages)", spending["degree"].map(DEGREE), wages["educcat"]),
    ):
        differ = (left != right) & ~(left.isna() & right.isna())
        if differ.any():
            raise InputError(
                f"{name} differs in {int(differ.sum())} rows of {YEAR}, first in row "
                f"{int(differ.argmax())}; give the tables in their original row order"
            )
