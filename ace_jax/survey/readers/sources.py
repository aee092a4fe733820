"""Where answers come from: a source's files to a table of codes and its codebook, or to cells."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.codebook import BUILTIN, Codebook, read_codebook
from ace_jax.survey.dataset import Dataset, read_dataset
from ace_jax.survey.readers import gss, issp, release_eval, table, wvs
from ace_jax.survey.selection import Selection, select, with_labels


@dataclass(frozen=True)
class Raw:
    """A survey as its files have it.

    Attributes:
      table: one row a respondent, codes as in the files.
      codebook: what its columns and codes mean.
      notes: what the manifest says of it beside the codebook's rules.
    """

    table: pd.DataFrame
    codebook: Codebook
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
      paths: the survey's files.
      codebook: the user's own, for `table`.
      weights: the column of survey weights.
      labels: `codebook`, or `file` for the value labels of the files (wvs7).
      selection: countries and questions.
    """

    paths: list[Path]
    codebook: Path | None
    weights: str | None
    labels: str
    selection: Selection


def read(source: str, request: Request) -> Raw:
    """Reads the files of one of `READERS`, and takes of them what was selected.

    Raises InputError for files that do not fit, or for a choice that the source does not have.
    """
    if request.labels == "file" and source != "wvs7":
        raise InputError("--labels file is for --source wvs7; leave it out")
    if (request.codebook is not None) != (source == "table"):
        raise InputError(
            "--source table needs --codebook FILE: docs/surveys.md shows one"
            if source == "table"
            else f"--codebook is for --source table; {source} has its own"
        )
    return READERS[source](request)


def load_survey(path_or_name: str | Path) -> Dataset:
    """Reads a DATASET directory, a built-in dataset by its name, or the authors' data/eval.

    Raises InputError as `read_dataset` and `release_eval.read_eval` do.
    """
    directory = Path(path_or_name)
    released = release_eval.is_release_eval(directory)
    return release_eval.read_eval(directory) if released else read_dataset(path_or_name)


open_dataset = load_survey  # until its callers are renamed


def _read_gss(request: Request) -> Raw:
    codebook = read_codebook(BUILTIN / "gss2018.toml")
    return _selected(gss.read(request.paths), codebook, request, {"filters": [gss.FILTER]})


def _read_wvs(request: Request) -> Raw:
    codebook = read_codebook(BUILTIN / "wvs7.toml")
    if request.labels == "file":
        codebook = with_labels(codebook, wvs.read_labels(request.paths))
    return _selected(wvs.read(request.paths), codebook, request, {"labels": request.labels})


def _read_table(request: Request) -> Raw:
    codebook = read_codebook(cast(Path, request.codebook))
    return _selected(table.read(request.paths, codebook, request.weights), codebook, request, {})


def _read_issp(request: Request) -> Raw:
    read = issp.read(request.paths)
    return _selected(read.table, read.codebook, request, read.notes)


def _selected(
    frame: pd.DataFrame, codebook: Codebook, request: Request, notes: Mapping[str, Any]
) -> Raw:
    frame, codebook, taken = select(frame, codebook, request.selection)
    left_out = {**notes.get("left_out", {}), **taken.get("left_out", {})}
    return Raw(frame, codebook, {**notes, **taken, "left_out": left_out})


READERS: dict[str, Callable[[Request], Raw]] = {
    "gss2018": _read_gss,
    "wvs7": _read_wvs,
    "issp": _read_issp,
    "table": _read_table,
}
