"""Tables of respondents: CSV, Parquet, files of statistics programs, spreadsheets, R's files.

They are told apart by content. Files of SPSS and Stata, and sizes, are checked before a library
trusts them.
"""

import csv
import re
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyreadstat

from ace_jax.errors import InputError
from ace_jax.files import reason
from ace_jax.survey.codebook import Code, Codebook
from ace_jax.survey.readers import kinds
from ace_jax.survey.readers.kinds import check_fits, kind_of
from ace_jax.survey.readers.sheets import read_r, read_sheet

DELIMITERS = ",;\t|"
# What programs write into a CSV file where they have no value; a codebook may declare it a code.
GAPS = frozenset(["NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null"])
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
LEADING_NUMBER = re.compile(r"^-?\d+[\s.:)\-]*(?=[^\d\s.:)\-])")
APOSTROPHES = str.maketrans(dict.fromkeys("\u00b4`\u2018\u2019", "'"))
# The errors that pyreadstat raises for a damaged file, itself or through its arrays.
DAMAGE = (
    pyreadstat.ReadstatError,
    pyreadstat.PyreadstatError,
    ArithmeticError,
    LookupError,
    MemoryError,
    ValueError,
)
STATISTICS: Mapping[str, Callable[..., Any]] = {
    kinds.SAV: pyreadstat.read_sav,
    kinds.ZSAV: pyreadstat.read_sav,
    kinds.POR: pyreadstat.read_por,
    kinds.DTA: pyreadstat.read_dta,
    kinds.XPT: pyreadstat.read_xport,
}
DEFLATED = 1032  # zlib packs at most so many bytes into one
SAV_HEADER = 176  # bytes before the first record of a .sav file


@dataclass(frozen=True)
class Raw:
    """The answers to a survey as its files have them: a row a respondent, codes in the cells.

    `notes` are what the manifest records beside the codebook's rules.
    """

    table: pd.DataFrame
    codebook: Codebook
    notes: Mapping[str, Any] = field(default_factory=dict)


def read_codes(
    path: Path,
    codebook: Codebook,
    whole: str,
    optional: Collection[str],
    variable: Callable[[str], str] = str.strip,
) -> pd.DataFrame:
    """Returns the columns that a codebook names, and those of the `optional` ones that are there.

    Their cells hold codes; the country's column holds texts. `variable` makes a column's name of
    a cell of a CSV file's header. Raises InputError for a file of none of the forms, a damaged
    one, one that lacks a column (the message then asks for `whole`), or one with a text that is no
    code.
    """
    country = codebook.country_column
    named = [*([country] if country else []), *codebook.labels, *optional]

    def choose(found: Collection[str]) -> list[str]:
        check_columns([name for name in named if name not in optional], found, path, whole)
        return [name for name in dict.fromkeys(named) if name in found]

    gaps: Collection[str] = ()
    kind = kind_of(path)
    if kind in STATISTICS:
        table, _ = read_statistics(path, choose)
    elif kind in (kinds.SHEET, kinds.R):
        table = (read_sheet if kind == kinds.SHEET else read_r)(path, choose)
    elif kind == kinds.PARQUET:
        with sound_parquet(path):
            content = read_parquet(path, choose)
            if nested := [one.name for one in content.schema if pa.types.is_nested(one.type)]:
                raise InputError(f"{path}: column {nested[0]} holds lists or records; give codes")
            table = content.to_pandas()
    else:
        delimiter, names = _csv_header(path, named, variable)
        wanted = {*choose(names.values())}
        names = {cell: name for cell, name in names.items() if name in wanted}
        # Text codes may look like numbers ("01"); pandas reads a column of numbers much faster.
        spelt = {name for name, of in codebook.labels.items() if any(type(c) is str for c, _ in of)}
        options = {
            "dtype": {cell: str for cell, name in names.items() if name in {*spelt, country}},
            "keep_default_na": False,
            "na_values": [""],
        }
        table = read_csv(path, delimiter, usecols=list(names), **options).rename(columns=names)
        gaps = GAPS
    columns = {
        name: column.astype(str).str.strip()
        if name == country
        else codes(column, path, codebook.labels.get(str(name), ()), gaps)
        for name, column in table.items()
    }
    return pd.DataFrame(columns)


def codes(
    column: pd.Series,
    path: Path,
    labels: Sequence[tuple[Code, str]] = (),
    gaps: Collection[str] = (),
) -> pd.Series:
    """Returns a file's column with a code in each cell, missing where it is blank or in `gaps`.

    A text is the code that it spells exactly, else the number that it is, else the code of which
    it is the one label ("Very important", "1. very important"). Raises InputError for any other.
    """
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column
    texts = {code.strip(): code for code, _ in labels if isinstance(code, str)}
    named: dict[str, set[Code]] = {}  # several codes may have the same label
    for code, label in labels:
        if not isinstance(code, str):
            named.setdefault(plain(label), set()).add(code)
    column = column.astype(object)
    coded: dict[Any, Code | None] = {}
    for cell in column.dropna().unique():
        text = str(cell).strip()
        label = plain(text)
        its = named.get(label) or named.get(LEADING_NUMBER.sub("", label), set())
        if text in texts:
            coded[cell] = texts[text]
        elif NUMBER.fullmatch(text):
            coded[cell] = float(text)
        elif len(its) == 1:
            coded[cell] = next(iter(its))
        elif text and text not in gaps:
            raise InputError(
                f"{path}: column {column.name} holds the text {text!r:.40} "
                f"({int((column == cell).sum())} respondents), which is no code and not the label "
                "of one; declare it in the codebook, or export the file with codes, not labels"
            )
    return column.map(coded)


def spaced(text: str) -> str:
    """Returns a text with single blanks and one kind of apostrophe."""
    return " ".join(text.translate(APOSTROPHES).split())


def plain(label: str) -> str:
    """Returns what two spellings of a label have in common."""
    return spaced(label).casefold()


def read_statistics(
    path: Path, choose: Callable[[list[str]], list[str]], *, user_missing: bool = False
) -> tuple[pd.DataFrame, Any]:
    """Returns some columns of a file of one of the kinds STATISTICS, and pyreadstat's metadata.

    `choose` says which columns, given all names. With `user_missing`, codes that a .sav file
    declares missing are read as codes. (Stata's own missing values always are missing.)

    Raises InputError for a file that is not there, is empty or damaged, or claims more respondents
    than it can hold: pyreadstat makes room for all of them before it reads the first.
    """
    kind, size = kind_of(path), path.stat().st_size
    _, metadata = _pyreadstat(path, kind, metadataonly=True)
    rows, columns = metadata.number_rows, choose(metadata.column_names)
    packed = DEFLATED if kind == kinds.ZSAV else 1
    if rows is None and packed > 1:
        raise InputError(f"{path} does not say how many respondents it has; save it as .sav")
    # In either form a value takes a byte at least.
    if (rows or 0) * len(metadata.column_names) > size * packed:
        raise InputError(
            f"{path} says it has {rows} respondents, more than its {size} bytes can hold; "
            "download it again"
        )
    check_fits((rows or 0) * len(columns), path)
    options = {"user_missing": True} if user_missing and kind in (kinds.SAV, kinds.ZSAV) else {}
    table, metadata = _pyreadstat(path, kind, usecols=columns, **options)
    if rows is not None and len(table) < rows:
        raise InputError(
            f"{path} is cut off: it has {len(table)} of {rows} respondents; download it again"
        )
    return table, metadata


def read_parquet(path: Path, choose: Callable[[list[str]], list[str]]) -> pa.Table:
    """Returns the columns that `choose` says, given all names.

    They come without pandas' notes, which damage may have reached. Raises InputError for a damaged
    file, and for one that does not fit into memory.
    """
    with sound_parquet(path):
        metadata = pq.read_metadata(path)
        columns = choose(metadata.schema.to_arrow_schema().names)
        check_fits(metadata.num_rows * len(columns), path)
        return pq.read_table(path, columns=columns).replace_schema_metadata(None)


@contextmanager
def sound_parquet(path: Path) -> Iterator[None]:
    """Raises InputError in place of what pyarrow does: a damaged file, columns of other types."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(
            f"{path} is not a Parquet file with such columns ({reason(error)}); write it again"
        ) from None


def read_csv(path: Path, delimiter: str, **options: Any) -> pd.DataFrame:
    """Returns a CSV file's table; `options` are pandas'.

    Raises InputError for a file that is not there, not in UTF-8, no CSV file, or without rows.
    """
    if (kind := kind_of(path)) != kinds.CSV:
        raise InputError(f"{path} is {kind}; give a CSV file")
    try:
        table = pd.read_csv(path, sep=delimiter, encoding="utf-8-sig", low_memory=False, **options)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path} is not a CSV file: {reason(error)}") from None
    if table.empty:
        raise InputError(f"{path} has a header and no respondents; download it again")
    return table


def check_columns(needed: Sequence[str], found: Iterable[str], path: Path, whole: str) -> None:
    """Raises InputError naming the first column that is not there; `whole` is the file to give."""
    has = list(found)
    missing = [name for name in needed if name not in {*has}]
    if missing:
        first, share = missing[0], f"{len(missing)} of {len(needed)} are missing"
        near = get_close_matches(first, has, 1, cutoff=0.4)  # names are short
        raise InputError(
            f"{path} lacks the column {first:.40} ({share}); "
            f"the nearest it has is {near[0] if near else 'nothing like it'}; give {whole}"
        )


def _csv_header(
    path: Path, needed: Collection[str], variable: Callable[[str], str]
) -> tuple[str, dict[str, str]]:
    """Returns the delimiter under which most of the `needed` names are there, and all names."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    rows = {
        delimiter: {
            cell: variable(cell) for cell in next(csv.reader([line], delimiter=delimiter), [])
        }
        for delimiter in DELIMITERS
    }
    delimiter = max(rows, key=lambda one: len({*rows[one].values()} & {*needed}))
    return delimiter, rows[delimiter]


def _not_utf8(path: Path, error: UnicodeDecodeError) -> InputError:
    byte = error.object[error.start]
    return InputError(
        f"{path} is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8, or download it again"
    )


def _pyreadstat(path: Path, kind: str, **options: Any) -> tuple[pd.DataFrame, Any]:
    try:
        if kind in (kinds.SAV, kinds.ZSAV):
            _check_dictionary(path)
        table, metadata = STATISTICS[kind](path, **options)
        if None in metadata.column_names:
            raise ValueError("a variable without a name")
        return table, metadata
    except DAMAGE as error:
        raise InputError(
            f"{path} is damaged or cut off ({reason(error)}); download it again"
        ) from None


def _check_dictionary(path: Path) -> None:
    """Walks the records at the start of a .sav file; raises ValueError for broken ones.

    ReadStat looks up the variables that value labels name. Where the file has no such variable,
    it reads beyond its memory and ends the whole program.
    """
    with path.open("rb") as file:
        order = "<" if file.read(SAV_HEADER)[64:66] in (b"\2\0", b"\3\0") else ">"

        def take(form: str) -> int:
            content = file.read(struct.calcsize(form))
            if len(content) < struct.calcsize(form):
                raise ValueError("it ends before its dictionary does")
            return int(struct.unpack(order + form, content)[0])

        def skip(length: int) -> None:
            if length < 0:
                raise ValueError("a record of negative length")
            file.seek(length, 1)

        variables = 0
        while (kind := take("i")) != 999:  # the end of the dictionary
            if kind == 2:  # a variable: width, has a label, number of missing values
                variables += 1
                _, labelled, missing = take("i"), take("i"), take("i")
                skip(16)  # formats and name
                if labelled:
                    skip(-(-take("i") // 4) * 4)
                skip(8 * abs(missing))
            elif kind == 3:  # value labels: value, length, text padded to 8 bytes
                for _ in range(take("i")):
                    skip(8)
                    skip((take("B") + 8) // 8 * 8 - 1)
            elif kind == 4:  # the variables of these labels
                for _ in range(take("i")):
                    if not 1 <= take("i") <= variables:
                        raise ValueError("labels of a variable that is not in the file")
            elif kind == 6:  # a document of lines
                skip(80 * take("i"))
            elif kind == 7:  # an extension: subtype, size, count
                take("i")
                skip(take("i") * take("i"))
            else:
                raise ValueError(f"a record of type {kind}")
