"""Where datasets come from: a source's files, a DATASET directory, or the authors' release."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ace_jax.errors import InputError
from ace_jax.survey.codebook import read_codebook
from ace_jax.survey.dataset import Dataset, read_dataset
from ace_jax.survey.readers import gss, issp, release_eval, table, wvs
from ace_jax.survey.selection import Raw, select


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
      paths: the survey's files.
      codebook: the user's own, for `table`.
      weights: the column of survey weights.
      countries, questions: as `select` takes them.
    """

    paths: Sequence[Path]
    codebook: Path | None = None
    weights: str | None = None
    countries: Sequence[str] | None = None
    questions: str = "all"


def _table(request: Request) -> Raw:
    if request.codebook is None:
        raise InputError("--source table needs --codebook FILE: docs/surveys.md shows one")
    return table.read(request.paths, read_codebook(request.codebook), request.weights)


READERS: dict[str, Callable[[Request], Raw]] = {
    "gss2018": lambda request: gss.read(request.paths),
    "wvs7": lambda request: wvs.read(request.paths),
    "issp": lambda request: issp.read(request.paths),
    "table": _table,
}


def read(source: str, request: Request) -> Raw:
    """Reads the files of one of `READERS` and keeps the countries and questions asked for.

    Raises InputError for files that do not fit, or for a choice that the source does not have.
    """
    if request.codebook is not None and source != "table":
        raise InputError(f"--codebook is for --source table; {source} has its own")
    return select(READERS[source](request), request.countries, request.questions)


def load_survey(path_or_name: str | Path) -> Dataset:
    """Reads a DATASET directory, a built-in dataset by its name, or the authors' data/eval.

    Raises InputError as `read_dataset` and `release_eval.read_eval` do.
    """
    directory = Path(path_or_name)
    released = release_eval.is_release_eval(directory)
    dataset = release_eval.read_eval(directory) if released else read_dataset(path_or_name)
    return replace(dataset, path=str(path_or_name))
