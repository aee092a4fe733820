"""Files of other programs: of which kind one is, by its content, and the table in it.

What a file is called says nothing. It is checked before a library trusts it.
"""

import bz2
import codecs
import gzip
import lzma
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pyreadstat

from ace_jax.errors import InputError, check_known
from ace_jax.files import reason
from ace_jax.survey.codebook import spelt

Choose = Callable[[list[str]], list[str]]

BYTES = 8  # of a number in memory
HEAD = 512

CSV, PARQUET, SHEET, R = "a CSV file", "a Parquet file", "a spreadsheet", "an R file (.rds, .rda)"
SAV, ZSAV, POR = "an SPSS file (.sav)", "an SPSS file (.zsav)", "an SPSS file (.por)"
DTA, XPT = "a Stata file (.dta)", "a SAS transport file (.xpt)"
UTF16 = f"text in UTF-16; save it in UTF-8, or give {spelt('encoding', 'utf-16')}"
READ = (CSV, PARQUET, SHEET, R, SAV, ZSAV, POR, DTA, XPT)

# How files of a kind begin. Those that are not in READ are refused by their name.
SIGNS = (
    (SAV, rb"\$FL2"),
    (ZSAV, rb"\$FL3"),
    (DTA, rb"<stata_dta>|[\x71-\x73][\x01\x02]\x01"),
    (POR, rb".{40}ASCII SPSS PORT FILE|.{456}SPSSPORT"),
    (XPT, rb"HEADER RECORD\*{7}LIB(RARY|V8) "),
    (PARQUET, rb"PAR1"),
    (R, rb"RD[XA][23]\n|[XA]\n\x00\x00\x00[\x02\x03]"),
    (SHEET, rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),  # .xls
    ("a SAS data set (.sas7bdat); save it as .xpt", rb"\x00{12}\xc2\xea\x81\x60"),
    ("a PDF", rb"%PDF-"),
    ("a web page", rb"(?i)\s*<(!doctype html|html|head)"),
    (UTF16, rb"\xff\xfe|\xfe\xff"),
    ("a database (SQLite)", rb"SQLite format 3"),
    ("a picture", rb"\x89PNG|\xff\xd8\xff|GIF8"),
)
PACKED: tuple[tuple[bytes, Callable[[Path], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
)
# The errors that pyreadstat raises for a damaged file, itself or through its arrays.
DAMAGE = (
    pyreadstat.ReadstatError,
    pyreadstat.PyreadstatError,
    ArithmeticError,
    LookupError,
    MemoryError,
    ValueError,
    struct.error,
)
STATISTICS: Mapping[str, Callable[..., Any]] = {
    SAV: pyreadstat.read_sav,
    ZSAV: pyreadstat.read_sav,
    POR: pyreadstat.read_por,
    DTA: pyreadstat.read_dta,
    XPT: pyreadstat.read_xport,
}
DEFLATED = 1032  # zlib packs at most so many bytes into one
SAV_HEADER = 176  # bytes before the first record of a .sav file
# Libraries that may not be there, and what to install for each.
NEEDS = {R: ("rdata", "ace_jax[r]"), SHEET: ("python_calamine", "python-calamine")}


def kind_of(path: Path, encoding: str | None = None) -> str:
    """Returns one of READ; raises InputError for no file, an empty one, or naming another kind.

    A spreadsheet is .xlsx, .xlsb, .xls or .ods. What has no sign is CSV, and so is UTF-16 where
    that is the `encoding`.
    """
    try:
        with path.open("rb") as file:
            first = file.read(HEAD)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not first.strip():
        raise InputError(f"{path} is empty; download it again")
    kind = _kind(first)
    try:
        if first.startswith(b"PK\3\4"):
            kind = _zipped(path)
        for sign, open_packed in PACKED:
            if first.startswith(sign):
                with open_packed(path) as file:
                    inside = _kind(file.read(HEAD))
                kind = R if inside == R else "packed (.gz, .bz2, .xz); unpack it"
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise InputError(f"{path} is damaged or cut off ({reason(error)})") from None
    if kind == UTF16 and encoding and codecs.lookup(encoding).name.startswith("utf-16"):
        return CSV
    if kind not in READ:
        what, *remedy = kind.split("; ")
        raise InputError("; ".join([f"{path} is {what}, not a table of respondents", *remedy]))
    return kind


def check_fits(values: int, path: Path) -> None:
    """Raises InputError for a file that claims more values than this machine's memory holds."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if BYTES * values > memory:
        raise InputError(
            f"{path} says it has {values} values, which do not fit into this machine's memory of "
            f"{memory >> 30} GiB; download it again, or take columns or respondents out"
        )


def _kind(first: bytes) -> str:
    return next((kind for kind, sign in SIGNS if re.match(sign, first, re.DOTALL)), CSV)


def _zipped(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(re.match(r"xl/workbook\.(xml|bin)$", name) for name in names):
            return SHEET
        if "mimetype" in names and archive.getinfo("mimetype").file_size < HEAD:
            is_sheet = archive.read("mimetype").endswith(b"opendocument.spreadsheet")
            return SHEET if is_sheet else "an OpenDocument file"
    return "a ZIP archive; unpack it"


def read_statistics(
    path: Path,
    choose: Choose,
    encoding: str | None = None,
) -> tuple[pd.DataFrame, Any]:
    """Returns some columns of a file of one of the kinds STATISTICS, and pyreadstat's metadata.

    `choose` says which columns, given all names. Codes that a .sav file declares missing are
    read as codes. (Stata's own missing values always are missing.)

    Raises InputError for a file that is not there, is empty or damaged, or claims more respondents
    than it can hold: pyreadstat makes room for all of them before it reads the first.
    """
    kind, size = kind_of(path), path.stat().st_size
    spelt: dict[str, Any] = {"encoding": encoding} if encoding else {}
    _, metadata = _pyreadstat(path, kind, metadataonly=True, **spelt)
    rows, columns = metadata.number_rows, choose(metadata.column_names)
    packed = DEFLATED if kind == ZSAV else 1
    if rows is None and packed > 1:
        raise InputError(f"{path} does not say how many respondents it has; save it as .sav")
    # In either form a value takes a byte at least.
    if (rows or 0) * len(metadata.column_names) > size * packed:
        raise InputError(
            f"{path} says it has {rows} respondents, more than its {size} bytes can hold; "
            "download it again"
        )
    check_fits((rows or 0) * len(columns), path)
    if kind in (SAV, ZSAV):
        spelt["user_missing"] = True
    table, metadata = _pyreadstat(path, kind, usecols=columns, **spelt)
    if rows is not None and len(table) < rows:
        raise InputError(
            f"{path} is cut off: it has {len(table)} of {rows} respondents; download it again"
        )
    return table, metadata


def _pyreadstat(path: Path, kind: str, **options: Any) -> tuple[pd.DataFrame, Any]:
    try:
        if kind in (SAV, ZSAV):
            _check_dictionary(path)
        table, metadata = STATISTICS[kind](path, **options)
        if None in metadata.column_names:
            raise ValueError("a variable without a name")
        return table, metadata
    except DAMAGE as error:
        if "encoding" in str(error) or "character set" in str(error):
            raise InputError(
                f"{path} has texts in another encoding than it says; save it as UTF-8, or give it, "
                f"such as {spelt('encoding', 'cp1252')}"
            ) from None
        raise InputError(
            f"{path} is damaged or cut off ({reason(error)}); download it again"
        ) from None


def _check_dictionary(path: Path) -> None:
    """Walks the records at the start of a .sav file; raises an error of DAMAGE for broken ones.

    ReadStat looks up the variables that value labels name. Where the file has no such variable,
    it reads beyond its memory and ends the whole program.
    """
    with path.open("rb") as file:
        order = "<" if file.read(SAV_HEADER)[64:66] in (b"\2\0", b"\3\0") else ">"

        def take(form: str) -> int:
            return int(struct.unpack(order + form, file.read(struct.calcsize(form)))[0])

        variables = 0
        # A negative length reads to the file's end, behind which there is nothing to take.
        while (kind := take("i")) != 999:  # the end of the dictionary
            if kind == 2:  # a variable: width, has a label, number of missing values
                variables += 1
                _, labelled, missing = take("i"), take("i"), take("i")
                file.read(16)  # formats and name
                if labelled:
                    file.read(-(-take("i") // 4) * 4)
                file.read(8 * abs(missing))
            elif kind == 3:  # value labels: value, length, text padded to 8 bytes
                for _ in range(take("i")):
                    file.read(8)
                    file.read((take("B") + 8) // 8 * 8 - 1)
            elif kind == 4:  # the variables of these labels
                for _ in range(take("i")):
                    if not 1 <= take("i") <= variables:
                        raise ValueError("labels of a variable that is not in the file")
            elif kind == 6:  # a document of lines
                file.read(80 * take("i"))
            elif kind == 7:  # an extension: subtype, size, count
                take("i")
                file.read(take("i") * take("i"))
            else:
                raise ValueError(f"a record of type {kind}")


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
