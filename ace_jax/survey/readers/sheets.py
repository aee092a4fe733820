"""Tables in spreadsheets (.xlsx, .xlsb, .xls, .ods) and in R's files (.rds, .rda)."""

import warnings
import zipfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from ace_jax.errors import InputError, check_known
from ace_jax.files import reason
from ace_jax.survey.codebook import spelt
from ace_jax.survey.readers.kinds import SHEET, R, check_fits

# The libraries that read them, and what to install for each.
NEEDS = {R: ("rdata", "ace_jax[r]"), SHEET: ("python_calamine", "python-calamine")}

Choose = Callable[[list[str]], Sequence[str]]


def read_sheet(path: Path, choose: Choose, only: str | None = None) -> pd.DataFrame:
    """Returns columns of a spreadsheet, as `choose` says, given the names in its first row.

    Cells are texts, numbers, dates or missing. Of several sheets, the one called `only` is read, or
    the one that `choose` takes. Raises InputError for a damaged file, for none or several such
    sheets, and where the library that reads spreadsheets is not installed.
    """
    _library(path, SHEET)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_fits(sum(one.file_size for one in archive.infolist()) // 8, path)
    try:
        sheets = pd.read_excel(
            path,
            sheet_name=None,
            header=None,
            dtype=object,
            engine="calamine",
            keep_default_na=False,
            na_values=[""],
        )
    except Exception as error:  # whatever a damaged file leads it to
        raise _damaged(path, error) from None
    if only is not None:
        check_known(only, sheets, f"{path}, sheet")
        sheets = {only: sheets[only]}
    taken, refused = {}, None
    for name, sheet in sheets.items():
        if len(sheet) < 2:
            continue
        names = ["" if pd.isna(cell) else str(cell).strip() for cell in sheet.iloc[0]]
        table = sheet.iloc[1:].set_axis(names, axis=1).reset_index(drop=True)
        try:
            taken[name] = table[list(choose(names))].infer_objects()
        except InputError as error:
            refused = refused or error
    if len(taken) == 1:
        return next(iter(taken.values()))
    if taken:
        raise InputError(
            f"{path} has several tables, {', '.join(taken)}; leave one in, or name it, such as "
            f"{spelt('sheet', next(iter(taken)))}"
        )
    raise refused or InputError(f"{path} has no rows under a header")


def read_r(path: Path, choose: Choose) -> pd.DataFrame:
    """Returns columns of the data frame in an .rds or .rda file.

    A factor comes as its labels, a labelled vector as its codes. Raises InputError for a damaged
    file, one that does not hold one data frame, and where `rdata` is not installed.
    """
    rdata = _library(path, R)
    try:
        with warnings.catch_warnings(action="ignore"):  # of classes that it reads as plain vectors
            content = rdata.conversion.convert(rdata.parser.parse_file(path))
    except Exception as error:  # whatever a damaged file leads it to
        raise _damaged(path, error) from None
    frames = content if isinstance(content, dict) else {"": content}
    frames = {name: one for name, one in frames.items() if isinstance(one, pd.DataFrame)}
    if len(frames) != 1:
        raise InputError(
            f"{path} holds {len(frames)} data frames ({', '.join(frames)}); save one of them alone"
        )
    (table,) = frames.values()
    return table[list(choose([*map(str, table.columns)]))].reset_index(drop=True)


def _library(path: Path, kind: str) -> Any:
    name, package = NEEDS[kind]
    try:
        return import_module(name)
    except ImportError:
        raise InputError(
            f"{path} is {kind}, which {name} reads; install it: pip install '{package}'"
        ) from None


def _damaged(path: Path, error: BaseException) -> InputError:
    return InputError(f"{path} is damaged or cut off ({reason(error)}); save it again")
