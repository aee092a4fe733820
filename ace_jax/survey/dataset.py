"""The DATASET directory: questions, cells and a manifest; never respondents."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ace_jax.errors import InputError, check_known, within
from ace_jax.files import check_digests, digests, read_object, whole_directory, write_record
from ace_jax.survey.codebook import Question
from ace_jax.survey.codebook_file import BUILTIN
from ace_jax.survey.personas import ATTRIBUTES, Attribute, attributes_of
from ace_jax.survey.readers.tables import check_columns, read_parquet, sound_parquet

# The names of the datasets that come with ace_jax.
EMBEDDED = tuple(sorted(path.parent.name for path in BUILTIN.glob("*/manifest.json")))
SHRUNK = "p_shrunk"
FILES = {"questions.parquet", "cells.parquet", "manifest.json"}
OWN = sorted(FILES), ("effects.png",)  # version 0.1 drew a picture, which may be replaced

TEXT, TEXTS, SHARES = pa.string(), pa.list_(pa.string()), pa.list_(pa.float64())


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


QUESTIONS = _schema(
    **dict.fromkeys(("source", "question_id", "topic", "text"), TEXT),
    option_codes=pa.list_(pa.int64()),
    option_labels=TEXTS,
    ordinal=pa.bool_(),
)
LISTS = ("option_codes", "option_labels")


def cell_schema(attributes: tuple[Attribute, ...], *, shrunk: bool = False) -> pa.Schema:
    """Returns the columns of `cells.parquet`; `p_shrunk` is there where cells were shrunk."""
    keys = _schema(source=TEXT, country=TEXT, question_id=TEXT, granularity=pa.int64())
    levels = [pa.field(attribute.name, TEXT) for attribute in attributes]
    numbers = _schema(n=pa.int64(), effective_n=pa.float64(), p=SHARES)
    return pa.schema([*keys, *levels, *numbers, *(_schema(**{SHRUNK: SHARES}) if shrunk else ())])


@dataclass(frozen=True)
class Dataset:
    """What `prepare` writes and every later stage reads.

    `questions`: source, question_id, topic, text, option_codes (list of int), option_labels
    (list of str), ordinal. `cells`: the columns of `cells.aggregate`, and `p_shrunk` if there are
    shrunk estimates, which training then learns from. `manifest`: where it all comes from; its
    `attributes` map each attribute to its levels, the paper's where absent; its `languages` have by
    language `questions` (text and options by id) and `attributes` (levels by name). `path`: where
    it was read from.
    """

    questions: pd.DataFrame
    cells: pd.DataFrame
    manifest: dict[str, Any]
    path: str = ""

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """What personas are made of, in the order in which a prompt names them."""
        return _attributes(self.manifest)

    @property
    def name(self) -> str:
        """The survey's name: the source that the manifest or the cells give."""
        return str(self.manifest.get("source") or self.cells["source"].iloc[0])

    @property
    def learnt(self) -> pd.Series:
        """The distribution of each cell that training learns: shrunk if there is one, else raw."""
        return self.cells[SHRUNK if SHRUNK in self.cells else "p"]

    @cached_property
    def digest(self) -> str:
        """The SHA-256 (hex) of the content: questions, cells, attributes, and their translations.

        Neither the order of rows nor where the dataset lies or when it was prepared enters it.
        Effective n and shares count to nine decimals.
        """
        names = [attribute.name for attribute in self.attributes]
        sha256 = hashlib.sha256(json.dumps([(a.name, a.levels) for a in self.attributes]).encode())
        for row in self.questions.sort_values("question_id").to_dict("records"):
            codes = [int(code) for code in row["option_codes"]]
            text = [row["question_id"], row["topic"], row["text"], codes, [*row["option_labels"]]]
            sha256.update(json.dumps(text).encode())
        if languages := self.manifest.get("languages"):
            sha256.update(json.dumps(languages, sort_keys=True).encode())
        keys = ["question_id", "country", *names]
        cells = self.cells.fillna(dict.fromkeys(names, "")).sort_values(keys)
        for name in keys:
            sha256.update(json.dumps(cells[name].tolist()).encode())
        sha256.update(cells["n"].to_numpy(np.int64).tobytes())
        shares = [
            np.concatenate([np.empty(0), *cells[name]]) for name in ("p", SHRUNK) if name in cells
        ]
        for numbers in (cells["effective_n"].to_numpy(np.float64), *shares):
            sha256.update((np.round(numbers, 9) + 0.0).tobytes())  # -0.0 is 0.0
        return sha256.hexdigest()


def question_table(questions: Iterable[Question]) -> pd.DataFrame:
    """Returns one row a question, with the columns of `questions.parquet`."""
    rows = [[getattr(question, name) for name in QUESTIONS.names] for question in questions]
    table = pd.DataFrame(rows, columns=QUESTIONS.names)
    return table.assign(**{name: table[name].map(list) for name in LISTS})


def write_dataset(dataset: Dataset, directory: str | Path) -> None:
    """Writes the DATASET whole or not at all; one that is already there is replaced.

    Raises InputError for a directory that holds anything else, or that cannot be written.
    """
    with whole_directory(Path(directory), *OWN) as new:
        _write_parquet(dataset.questions, QUESTIONS, new / "questions.parquet")
        columns = cell_schema(dataset.attributes, shrunk=SHRUNK in dataset.cells)
        _write_parquet(dataset.cells, columns, new / "cells.parquet")
        files = digests(new, ["questions.parquet", "cells.parquet"])
        write_record(new / "manifest.json", {**dataset.manifest, "files": files})


def dataset_directory(path_or_name: str | Path) -> Path:
    """Returns where a DATASET lies, given its directory or the name of an embedded one."""
    return BUILTIN / str(path_or_name) if path_or_name in EMBEDDED else Path(path_or_name)


def select_questions(dataset: Dataset, question_ids: Sequence[str]) -> Dataset:
    """Keeps only some questions and their cells; all of them where none is named.

    Raises InputError for an id that the dataset does not have.
    """
    if not question_ids:
        return dataset
    for name in question_ids:
        check_known(name, dataset.questions["question_id"], "data.questions")
    questions, cells = (
        table[table["question_id"].isin(question_ids)].reset_index(drop=True)
        for table in (dataset.questions, dataset.cells)
    )
    return Dataset(questions, cells, dataset.manifest)


def read_dataset(path_or_name: str | Path) -> Dataset:
    """Reads and checks a DATASET directory, or an embedded one by its name (`EMBEDDED`).

    A directory of that very name is read as `./NAME`. In `cells`, `p` holds float64 arrays.
    Raises InputError for whatever does not keep to the contract.
    """
    directory = dataset_directory(path_or_name)
    if not directory.is_dir():
        raise InputError(
            f"there is no DATASET {directory}; make one with `python -m ace_jax.prepare`, "
            f"or use {' or '.join(EMBEDDED)}"
        )
    manifest = read_object(directory / "manifest.json", "a DATASET")
    files = manifest.pop("files", {})
    try:
        attributes = _attributes(manifest)
    except (TypeError, AttributeError):
        raise InputError(f"{directory}/manifest.json names no attributes; correct it") from None
    path, table = directory / "questions.parquet", directory / "cells.parquet"
    rows = _read(path, QUESTIONS).to_pylist()
    with within(path):
        for row in rows:
            Question(**row | {name: tuple(row[name]) for name in LISTS})
    questions = pd.DataFrame(rows, columns=QUESTIONS.names)
    _check_rows(questions["question_id"].duplicated(), "repeats a question_id", path)
    cells = _read(table, cell_schema(attributes, shrunk=True), [SHRUNK]).to_pandas()
    _check_cells(cells, questions, attributes, table)
    check_digests(directory, files, [path.name, table.name])
    return Dataset(questions, cells, manifest)


def _write_parquet(frame: pd.DataFrame, schema: pa.Schema, path: Path) -> None:
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    # Without pandas' own metadata the bytes do not depend on the version of pandas.
    pq.write_table(table.replace_schema_metadata(None), path)


def _read(path: Path, schema: pa.Schema, optional: Sequence[str] = ()) -> pa.Table:
    """Returns the columns of the schema, the optional ones where the file has them."""

    def choose(found: list[str]) -> list[str]:
        kept = [name for name in schema.names if name in found or name not in optional]
        check_columns(kept, found, path, "a DATASET that `prepare` wrote")
        return kept

    with sound_parquet(path):
        table = read_parquet(path, choose)
        return table.cast(pa.schema([schema.field(name) for name in table.column_names]))


def _attributes(manifest: dict[str, Any]) -> tuple[Attribute, ...]:
    named = manifest.get("attributes")
    return attributes_of(named) if named else ATTRIBUTES


def _check_cells(
    cells: pd.DataFrame, questions: pd.DataFrame, attributes: tuple[Attribute, ...], path: Path
) -> None:
    options = questions.set_index("question_id")["option_codes"].map(len)
    expected = cells["question_id"].map(options)
    _check_rows(expected.isna(), "has a question_id that questions.parquet lacks", path)
    for name in {"p", SHRUNK} & {*cells}:
        p = cells[name]
        _check_rows(p.map(len) != expected, f"has a {name} not as long as its options", path)
        sound = p.map(lambda share: bool((share >= 0).all() and abs(share.sum() - 1) <= 1e-6))
        _check_rows(~sound, f"has a {name} with shares below 0 or not of sum 1", path)
    # Cells are looked up by persona, so each may be there once.
    names = [attribute.name for attribute in attributes]
    same = cells[["country", "question_id", *names]].duplicated()
    _check_rows(same, "repeats the persona and question of another", path)
    for attribute in attributes:
        unknown = ~cells[attribute.name].isin([None, *attribute.levels])
        _check_rows(unknown, f"has a {attribute.name} that is no level of it", path)


def _check_rows(bad: pd.Series, what: str, path: Path) -> None:
    if bad.any():
        raise InputError(
            f"{path}: row {int(bad.argmax())} {what} ({int(bad.sum())} such rows); correct it or "
            "prepare it again"
        )
