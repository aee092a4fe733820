"""Tables of respondents: CSV, Parquet, files of statistics programs, spreadsheets, R's files.

They are told apart by content.
"""

import codecs
import csv
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ace_jax.errors import InputError
from ace_jax.files import reason
from ace_jax.survey.codebook import Codebook, Form, spelt
from ace_jax.survey.codes import BLANK, GAPS, codes, plain, spelling
from ace_jax.survey.readers import kinds
from ace_jax.survey.readers.kinds import check_fits, kind_of
from ace_jax.survey.readers.sheets import read_r, read_sheet
from ace_jax.survey.readers.statistics import STATISTICS, read_statistics
from ace_jax.survey.readers.value_labels import option_label

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
        check_columns([name for name in named if name not in optional], found, path, whole)
        kept = [name for name in named if name in found]
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
    table, metadata = read_table(path, choose, form, named, {*spelt, *texts}, variable)
    if metadata is not None:
        flags += _against_metadata(table, metadata, codebook, path)
    columns = {
        name: column.astype(str).str.strip()
        if name in texts
        else codes(column, path, codebook.labels.get(str(name), ()), form.decimal)
        for name, column in table.items()
    }
    coded = pd.DataFrame(columns)
    coded.attrs["flags"] = flags
    return coded


def read_table(
    path: Path,
    choose: Callable[[list[str]], list[str]],
    form: Form,
    needed: Collection[str] = (),
    texts: Collection[str] = (),
    variable: Callable[[str], str] = str.strip,
) -> tuple[pd.DataFrame, Any]:
    """Returns the columns of a file that `choose` says, and pyreadstat's metadata or None.

    For a CSV file, `needed` and `variable` are as of `read_header`, `texts` as of `read_csv`.
    Raises InputError for a file of another form, a damaged one, and one with lists in a column.
    """
    kind = kind_of(path, form.encoding)
    if kind in STATISTICS:
        return read_statistics(path, choose, form.encoding)
    if kind == kinds.SHEET:
        return read_sheet(path, choose, form.sheet), None
    if kind == kinds.R:
        return read_r(path, choose), None
    if kind == kinds.CSV:
        return read_csv(path, choose, read_header(path, needed, variable, form), texts), None
    with sound_parquet(path):
        content = read_parquet(path, choose)
        if nested := [one.name for one in content.schema if pa.types.is_nested(one.type)]:
            raise InputError(f"{path}: column {nested[0]} holds lists or records; give codes")
        return content.to_pandas(), None


def stacked(tables: Sequence[pd.DataFrame], apart: Collection[str] = ()) -> pd.DataFrame:
    """Returns tables of `read_codes` one below the other.

    They keep the columns that all have, and those of `apart` that any has.
    """
    shared = set[str].intersection(*({*table.columns} for table in tables))
    whole = pd.concat(tables, ignore_index=True)
    whole = whole[[name for name in whole if name in shared or name in apart]]
    whole.attrs["flags"] = [flag for table in tables for flag in table.attrs["flags"]]
    return whole


def _against_metadata(
    table: pd.DataFrame, metadata: Any, codebook: Codebook, path: Path
) -> list[str]:
    """Makes missing what a .sav file calls so and the codebook does not; returns the rest.

    Raises InputError where a label of the file is that of another code of the codebook.
    """
    flags = []
    counted: dict[str, set[str]] = {name: set() for name in codebook.labels}
    for question in codebook.questions:
        counted[question.question_id].update(map(spelling, question.answers))
    for recode in codebook.recodes:
        if isinstance(recode.by, Mapping):
            counted[recode.column].update(map(spelling, recode.by))
    for name in table.columns.intersection([*codebook.labels]):
        own: dict[str, set[str]] = {}
        for code, label in codebook.labels[name]:
            own.setdefault(plain(label), set()).add(spelling(code))
        theirs = metadata.variable_value_labels.get(name, {})
        for code, label in theirs.items():
            its = own.get(plain(option_label(code, str(label))), {spelling(code)})
            if spelling(code) not in its and counted[name] & {spelling(code), *its}:
                raise InputError(
                    f"{path}: column {name} has the label {label!r:.40} for {spelling(code)}, and "
                    f"the codebook has it for {min(its)}; correct the codebook"
                )
        column, missing = table[name], pd.Series(False, table.index)
        for one in metadata.missing_ranges.get(name, []):
            is_text = isinstance(one["lo"], str)
            missing |= column == one["lo"] if is_text else column.between(one["lo"], one["hi"])
        kept = missing & column.isin(
            [code for code in column[missing].unique() if spelling(code) in counted[name]]
        )
        for value, n in column[kept].value_counts().items():
            flags.append(
                f"{name}: the file calls {spelling(value)} missing, and the codebook counts it "
                f"({n} respondents); if it is no answer, list it in `dropped`"
            )
        table[name] = column.mask(missing & ~kept)
    return flags


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


class Header(NamedTuple):
    """The columns of a CSV file, in its order, and how the file spells its cells."""

    names: list[str]
    form: Form


def read_csv(
    path: Path,
    choose: Callable[[list[str]], list[str]],
    header: Header,
    texts: Collection[str] = (),
) -> pd.DataFrame:
    """Returns the columns that `choose` says, given all names; those of `texts` as texts.

    Raises InputError for a file in another encoding, that is no CSV file, without rows, or with a
    row that is longer or shorter than the header.
    """
    names, form = header
    columns = {str(names.index(name)): name for name in choose(names)}
    uneven: list[Any] = []

    def note(row: Any) -> str:
        uneven.append(row)
        return "skip"

    try:
        table = pa_csv.read_csv(
            path,
            pa_csv.ReadOptions(
                column_names=[str(place) for place in range(len(names))],
                skip_rows=1,
                encoding=(form.encoding or "utf8").removesuffix("-sig"),  # it skips the mark itself
                block_size=BLOCK,
            ),
            pa_csv.ParseOptions(
                delimiter=form.delimiter, newlines_in_values=True, invalid_row_handler=note
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
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        if "UTF8" in str(error) or isinstance(error, UnicodeError):
            raise _not_decoded(path, form) from None
        raise InputError(f"{path} is not a CSV file: {reason(error)}") from None
    if uneven:
        raise InputError(
            f"{path}: {len(uneven)} rows have more or fewer cells than the header, such as "
            f"{uneven[0].actual_columns} in place of {len(names)}; put texts with a "
            f"{form.delimiter!r} into quotes, or correct the rows"
        )
    if not len(table):
        raise InputError(f"{path} has a header and no respondents; download it again")
    return table.to_pandas().rename(columns=columns)


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


def read_header(
    path: Path,
    needed: Collection[str],
    variable: Callable[[str], str] = str.strip,
    form: Form | None = None,
) -> Header:
    """Returns a CSV file's header; its delimiter is the form's, else the one that fits best.

    That is the one under which most of the `needed` names are there, else most names. `variable`
    makes a name of a cell. Raises InputError for a file that is not there, in another encoding, or
    no CSV file.
    """
    form = form or Form()
    if (kind := kind_of(path, form.encoding)) != kinds.CSV:
        raise InputError(f"{path} is {kind}; give a CSV file")
    if form.encoding is None or codecs.lookup(form.encoding).name == "utf-8":
        form = replace(form, encoding="utf-8-sig")  # with the mark at its start, or without
    try:
        with path.open(encoding=form.encoding, newline="") as file:
            line = file.readline()
        rows = {
            delimiter: [
                variable(cell) for cell in next(csv.reader([line], delimiter=delimiter), [])
            ]
            for delimiter in form.delimiter or DELIMITERS
        }
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeError:
        raise _not_decoded(path, form) from None
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV file: {reason(error)}") from None
    delimiter = max(rows, key=lambda one: (len({*rows[one]} & {*needed}), len(rows[one])))
    return Header(rows[delimiter], replace(form, delimiter=delimiter))


def _not_decoded(path: Path, form: Form) -> InputError:
    encoding = (form.encoding or "utf-8").upper().removesuffix("-SIG")
    return InputError(
        f"{path} is not {encoding}; save it as UTF-8, or give its encoding, such as "
        f"{spelt('encoding', 'cp1252')}"
    )
