"""Which kind of file one is, by its content: what a file is called says nothing."""

import bz2
import codecs
import gzip
import lzma
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ace_jax.errors import InputError
from ace_jax.files import reason
from ace_jax.survey.codebook import spelt

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


def head(path: Path) -> bytes:
    """Returns a file's first bytes; raises InputError for one that is empty or not there."""
    try:
        with path.open("rb") as file:
            first = file.read(HEAD)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not first.strip():
        raise InputError(f"{path} is empty; download it again")
    return first


def kind_of(path: Path, encoding: str | None = None) -> str:
    """Returns one of READ; raises InputError that names any other kind.

    A spreadsheet is .xlsx, .xlsb, .xls or .ods. What has no sign is CSV, and so is UTF-16 where
    that is the `encoding`.
    """
    first = head(path)
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
