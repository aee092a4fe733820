"""Tables of respondents: CSV, Parquet, files of statistics programs, spreadsheets, R's files.

They are told apart by content.
"""

import codecs
import csv
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ace_jax.errors import InputError
from ace_jax.files import reason
from ace_jax.survey.codebook import Codebook, Form, spelt
from ace_jax.survey.codes import BLANK, GAPS, codes, plain, spelling
from ace_jax.survey.readers.kinds import (
    CSV,
    SHEET,
    STATISTICS,
    Choose,
    R,
    check_fits,
    kind_of,
    read_r,
    read_sheet,
    read_statistics,
)
from ace_jax.survey.readers.value_labels import Column

DELIMITERS = ",;\t|"
BLOCK = 16 << 20  # bytes of a CSV file that are read at once


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

    Their cells hold codes; the columns of the country and of the respondent's id hold texts.
    `variable` makes a column's name of a cell of a CSV file's header. `attrs["flags"]` are lines on
    what the file's own names, labels and missing codes have against the codebook.

    Raises InputError for a file of none of the forms, a damaged one, one that lacks a column or has
    it twice (the message then asks for `whole`), one with a text that is no code, and one whose
    labels contradict the codebook's.
    """
    texts = [name for name in (codebook.country_column, codebook.id_column) if name]
    named = [*dict.fromkeys([*texts, *codebook.labels, *optional])]
    flags: list[str] = []

    def choose(found: Collection[str]) -> list[str]:
        kept = [name for name in named if name in found or name not in optional]
        check_columns(kept, found, path, whole)
        for name in kept:
            alike = [one for one in found if one.casefold() == name.casefold() and one != name]
            if alike:
                flags.append(f"{path.name}: has the columns {name} and {alike[0]}; {name} was read")
        return kept

    # Text codes may look like numbers ("01"); pandas reads a column of numbers much faster.
    spelt = {
        name
        for name, its in codebook.labels.items()
        if any(isinstance(code, str) or label in GAPS for code, label in its)
    }
    form = codebook.form
    columns, _ = read_table(path, choose, form, named, {*spelt, *texts}, variable)
    counted: dict[str, set[str]] = defaultdict(set)
    for question in codebook.questions:
        counted[question.question_id].update(map(spelling, question.answers))
    for recode in codebook.recodes:
        if isinstance(recode.by, Mapping):
            counted[recode.column].update(map(spelling, recode.by))
    coded: dict[str, pd.Series] = {}
    for name, column in columns.items():
        if name in texts:
            coded[name] = column.values.astype(str).str.strip()
        else:
            labels = codebook.labels.get(name, ())
            _check_labels(column, labels, counted[name], path)
            values, its_flags = _without_missing(column, counted[name])
            flags += its_flags
            coded[name] = codes(values, path, labels, form.decimal)
    table = pd.DataFrame(coded)
    table.attrs["flags"] = flags
    return table


def read_table(
    path: Path,
    choose: Choose | None = None,
    form: Form | None = None,
    needed: Collection[str] = (),
    texts: Collection[str] = (),
    variable: Callable[[str], str] = str.strip,
) -> tuple[dict[str, Column], str]:
    """Returns columns of a file by name, and the label that it has for itself.

    Args:
      path: a file of any kind.
      choose: says which columns, given all names; None: all.
      form: how the file spells what it holds.
      needed: names that tell a CSV file's delimiter, if the form does not.
      texts: columns of a CSV file to read as texts.
      variable: makes a column's name of a cell of a CSV file's header.

    Raises InputError for a file of another form, a damaged one, one with lists in a column, and one
    without respondents; without `choose`, for a column that is there twice.
    """

    def every(found: list[str]) -> list[str]:
        names = [*filter(None, found)]
        check_columns(names, names, path, "a file that has it once")
        return names

    choose, form = choose or every, form or Form()
    metadata: Any = None
    kind = kind_of(path, form.encoding)
    if kind in STATISTICS:
        table, metadata = read_statistics(path, choose, form.encoding)
    elif kind == SHEET:
        table = read_sheet(path, choose, form.sheet)
    elif kind == R:
        table = read_r(path, choose)
    elif kind == CSV:
        table = _read_csv(path, choose, form, needed, texts, variable)
    else:
        with sound_parquet(path):
            content = read_parquet(path, choose)
            if nested := [one.name for one in content.schema if pa.types.is_nested(one.type)]:
                raise InputError(f"{path}: column {nested[0]} holds lists or records; give codes")
            table = content.to_pandas()
    if not len(table):
        raise InputError(f"{path} has a header and no respondents; download it again")
    said = ("column_names_to_labels", "variable_value_labels", "missing_ranges")
    texts_of, labels, ranges = (getattr(metadata, name, {}) for name in said)
    columns = {
        name: Column(name, its, texts_of.get(name), labels.get(name, {}), ranges.get(name, []))
        for name, its in ((str(name), its) for name, its in table.items())
    }
    return columns, getattr(metadata, "file_label", None) or ""


def stacked(tables: Sequence[pd.DataFrame], apart: Collection[str] = ()) -> pd.DataFrame:
    """Returns tables of `read_codes` one below the other.

    They keep the columns that all have, and those of `apart` that any has.
    """
    shared = set[str].intersection(*({*table.columns} for table in tables))
    whole = pd.concat(tables, ignore_index=True)
    whole = whole[[name for name in whole if name in shared or name in apart]]
    whole.attrs["flags"] = [flag for table in tables for flag in table.attrs["flags"]]
    return whole


def _check_labels(
    column: Column, known: Sequence[tuple[Any, str]], counted: set[str], path: Path
) -> None:
    """Raises InputError where a label of the file is that of another code of the codebook."""
    own: dict[str, set[str]] = defaultdict(set)
    for code, label in known:
        own[plain(label)].add(spelling(code))
    for code, label in column.labels.items():
        its = own.get(plain(column.label(code)), {spelling(code)})
        if spelling(code) not in its and counted & {spelling(code), *its}:
            raise InputError(
                f"{path}: column {column.name} has the label {label!r:.40} for {spelling(code)}, "
                f"and the codebook has it for {min(its)}; correct the codebook"
            )


def _without_missing(column: Column, counted: set[str]) -> tuple[pd.Series, list[str]]:
    """Makes missing what a file calls so and the codebook does not count; returns flags too."""
    values = column.values
    if not column.ranges:
        return values, []
    missing = pd.Series(False, values.index)
    for one in column.ranges:
        is_text = isinstance(one["lo"], str)
        missing |= values == one["lo"] if is_text else values.between(one["lo"], one["hi"])
    kept = missing & values.isin([c for c in values[missing].unique() if spelling(c) in counted])
    flags = [
        f"{column.name}: the file calls {spelling(value)} missing, and the codebook counts it "
        f"({n} respondents); if it is no answer, list it in `dropped`"
        for value, n in values[kept].value_counts().items()
    ]
    return values.mask(missing & ~kept), flags


def read_parquet(path: Path, choose: Choose) -> pa.Table:
    """Returns the columns that `choose` says, given all names; use it within `sound_parquet`.

    They come without pandas' notes, which damage may have reached. Raises InputError for a file
    that does not fit into memory.
    """
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


def check_columns(needed: Sequence[str], found: Iterable[str], path: Path, whole: str) -> None:
    """Raises InputError naming the first column that is not there, or is there twice.

    `whole` is the file to give.
    """
    has = list(found)
    if twice := [name for name in needed if has.count(name) > 1]:
        raise InputError(f"{path} has the column {twice[0]:.40} twice; rename one of them")
    missing = [name for name in needed if name not in {*has}]
    if missing:
        first, share = missing[0], f"{len(missing)} of {len(needed)} are missing"
        near = get_close_matches(first, has, 1, cutoff=0.4)  # names are short
        raise InputError(
            f"{path} lacks the column {first:.40} ({share}); "
            f"the nearest it has is {near[0] if near else 'nothing like it'}; give {whole}"
        )


def _read_csv(
    path: Path,
    choose: Choose,
    form: Form,
    needed: Collection[str],
    texts: Collection[str],
    variable: Callable[[str], str],
) -> pd.DataFrame:
    """Reads a CSV file, as of `read_table`.

    Its delimiter is the form's, else the one under which most of the `needed` names are there, else
    most names.
    """
    encoding = form.encoding or "utf-8"
    if is_utf8 := codecs.lookup(encoding).name.startswith("utf-8"):
        encoding = "utf-8-sig"  # with the mark at its start, or without
    uneven: list[Any] = []

    def note(row: Any) -> str:
        uneven.append(row)
        return "skip"

    try:
        with path.open(encoding=encoding, newline="") as file:
            line = file.readline()
        rows = {
            one: [*map(variable, next(csv.reader([line], delimiter=one), []))]
            for one in form.delimiter or DELIMITERS
        }
        delimiter = max(rows, key=lambda one: (len({*rows[one]} & {*needed}), len(rows[one])))
        names = rows[delimiter]
        columns = {str(names.index(name)): name for name in choose(names)}
        table = pa_csv.read_csv(
            path,
            pa_csv.ReadOptions(
                column_names=[str(place) for place in range(len(names))],
                skip_rows=1,
                encoding="utf8" if is_utf8 else encoding,  # it skips the mark itself
                block_size=BLOCK,
            ),
            pa_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note
            ),
            pa_csv.ConvertOptions(
                include_columns=[*columns],
                column_types={place: pa.string() for place in columns if columns[place] in texts},
                null_values=[BLANK] if texts else [*GAPS],  # which a column of texts may declare
                true_values=[],  # texts stay as the file spells them
                false_values=[],
                strings_can_be_null=True,
                decimal_point=form.decimal,
            ),
        )
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        if "UTF8" in str(error) or isinstance(error, UnicodeError):
            raise InputError(
                f"{path} is not {encoding.removesuffix('-sig').upper()}; save it as UTF-8, or give "
                f"its encoding, such as {spelt('encoding', 'cp1252')}"
            ) from None
        raise InputError(f"{path} is not a CSV file: {reason(error)}") from None
    if uneven:
        raise InputError(
            f"{path}: {len(uneven)} rows have more or fewer cells than the header, such as "
            f"{uneven[0].actual_columns} in place of {len(names)}; put texts with a "
            f"{delimiter!r} into quotes, or correct the rows"
        )
    return table.to_pandas().rename(columns=columns)
