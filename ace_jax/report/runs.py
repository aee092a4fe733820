"""Evaluated runs: read from directories or tables, and brought to the same cells.

A method is one run, or several runs that differ in their seed only.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ace_jax.errors import InputError
from ace_jax.evaluation.distributions import Distributions
from ace_jax.survey.personas import Attribute, attributes_of

REQUIRED = ("country", "question_id", "granularity", "n", "effective_n", "p_data", "p_model")
RECORD = "ace_jax"  # the key of `DataFrame.attrs` that holds a run's record

RunLike = pd.DataFrame | str | Path


@dataclass(frozen=True)
class Run:
    """One evaluated run.

    Attributes:
      name: for messages.
      predictions: as `evaluate` writes them.
      identity: its run.json.
      questions: question_id, topic, text, option_labels, or None if they were not recorded.
      audit: its audit.csv, if there is one.
    """

    name: str
    predictions: pd.DataFrame
    identity: Mapping[str, Any]
    questions: pd.DataFrame | None = None
    audit: pd.DataFrame | None = None

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attributes of its personas."""
        return attributes_of(self.identity["attributes"])

    @property
    def is_reference(self) -> bool:
        """Whether it is a reference (`evaluation.references`), not a language model."""
        return bool(self.identity.get("reference"))

    @property
    def holds_out_personas(self) -> bool:
        """Whether the cells scored are exactly those of personas that training did not see."""
        data = self.identity["data"]
        blocks = str(data.get("holdout", "")).split(",")
        personas = all(block.strip().startswith("persona:") for block in blocks)
        return personas and data.get("split") == "held_out"


@dataclass(frozen=True)
class Method:
    """A run or, under one name, its repetitions with other seeds."""

    name: str
    seeds: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The first seed, for everything that does not depend on seeds."""
        return self.seeds[0]

    @property
    def p_model(self) -> pd.Series:
        """The mean answer of the seeds in each cell; all seeds have the same cells."""
        if len(self.seeds) == 1:
            return self.first.predictions["p_model"]
        answers = [Distributions.of(run.predictions["p_model"]) for run in self.seeds]
        mean = np.mean([one.p for one in answers], axis=0)
        rows = [p[:options] for p, options in zip(mean, answers[0].options, strict=True)]
        return pd.Series(rows, self.first.predictions.index, object)

    @property
    def audit(self) -> pd.DataFrame | None:
        """The mean over the seeds that were audited."""
        audits = [run.audit for run in self.seeds if run.audit is not None]
        if len(audits) < 2:
            return audits[0] if audits else None
        by = pd.concat(audits).groupby(["variant", "granularity"], sort=False)
        return by.mean().reset_index()


def read_method(name: str, runs: RunLike | Sequence[RunLike]) -> Method:
    """Reads the seeds of a method.

    Raises:
      InputError: a directory is given twice, or a run is incomplete, damaged, or of a version that
        did not record its attributes.
    """
    seeds = [runs] if isinstance(runs, pd.DataFrame | str | Path) else list(runs)
    paths = [Path(run).resolve() for run in seeds if not isinstance(run, pd.DataFrame)]
    if not seeds or len(set(paths)) < len(paths):
        problem = "a run is given twice" if seeds else "has no run"
        raise InputError(f"{name}: {problem}; give each seed its own directory")
    read = []
    for place, run in enumerate(seeds):
        which = place if isinstance(run, pd.DataFrame) else run
        called = name if len(seeds) == 1 else f"{name} ({which})"
        read.append(
            _of_table(called, run) if isinstance(run, pd.DataFrame) else _read(called, Path(run))
        )
    return Method(name, tuple(read))


def on_common_cells(methods: Sequence[Method]) -> tuple[tuple[Method, ...], tuple[str, ...]]:
    """Returns the methods on the cells that all runs share, and sentences on what was left out.

    Cells keep the order of the first run. Raises InputError if the runs' personas have different
    attributes, if the runs share no cell, or if the survey's answers differ between them.
    """
    runs = [run for method in methods for run in method.seeds]
    first = runs[0]
    for run in runs[1:]:
        if run.attributes != first.attributes:
            raise InputError(
                f"the runs {first.name} and {run.name} have personas of other attributes; "
                "report on them apart"
            )
    key = ["country", "question_id", *(attribute.name for attribute in first.attributes)]
    aligned, notes = list(runs), list[str]()
    if not all(run.predictions[key].equals(first.predictions[key]) for run in runs):
        aligned, notes = _aligned(runs, key)
    for place, run in enumerate(aligned[1:], start=1):
        _check_same_survey(aligned[0], run)
        shared = run.predictions.assign(p_data=aligned[0].predictions["p_data"].to_numpy())
        aligned[place] = replace(run, predictions=shared)  # one copy in memory
    rest = iter(aligned)
    common = [replace(one, seeds=tuple(islice(rest, len(one.seeds)))) for one in methods]
    return tuple(common), tuple(notes)


def _aligned(runs: Sequence[Run], key: list[str]) -> tuple[list[Run], list[str]]:
    common = runs[0].predictions[key]
    for run in runs[1:]:
        common = common.merge(run.predictions[key], on=key)  # a missing level matches another
    if common.empty:
        raise InputError(
            f"the runs {', '.join(run.name for run in runs)} have no cell in common; "
            "evaluate them with the same data and hold-out"
        )
    aligned, notes = [], []
    for run in runs:
        shared = common.merge(run.predictions, on=key, validate="one_to_one")
        aligned.append(replace(run, predictions=shared))
        if left := len(run.predictions) - len(common):
            notes.append(
                f"{run.name}: {left:,} of its {len(run.predictions):,} cells are left out, because "
                f"not every run has them{_lost(run.predictions, common)}."
            )
    notes.append(f"All comparisons use the {len(common):,} cells that all runs have.")
    return aligned, notes


def _lost(had: pd.DataFrame, common: pd.DataFrame) -> str:
    """Names the countries that were lost entirely, and counts such questions."""
    countries = sorted(set(had["country"]) - set(common["country"]))
    questions = len(set(had["question_id"]) - set(common["question_id"]))
    lost = [f"all of {', '.join(countries)}"] if countries else []
    lost += [f"{questions} questions altogether"] if questions else []
    return f" ({'; '.join(lost)})" if lost else ""


def _check_same_survey(first: Run, run: Run) -> None:
    one, other = (Distributions.of(of.predictions["p_data"]) for of in (first, run))
    same_options = np.array_equal(one.options, other.options)
    if not same_options or not np.allclose(one.p, other.p, atol=1e-6):
        raise InputError(
            f"the runs {first.name} and {run.name} were scored against other answers of the "
            "survey; evaluate both with the same data"
        )


def _of_table(name: str, predictions: pd.DataFrame) -> Run:
    record = predictions.attrs.get(RECORD)
    if not record:
        raise InputError(
            f"{name}: the table has no record of its run in attrs[{RECORD!r}]; pass what "
            "LanguageModel.score returned, or the directory that evaluate wrote"
        )
    table = predictions.reset_index(drop=True)
    table.attrs = {}  # pandas would copy the record in every operation
    questions = record.get("questions")
    known = None if questions is None else pd.DataFrame(questions)
    return _checked(Run(name, table, dict(record["run"]), known), f"{name}: the table")


def _read(name: str, out: Path) -> Run:
    for file in ("predictions.parquet", "run.json"):
        if not (out / file).is_file():
            raise InputError(f"{out}: {file} is missing; run ace_jax.evaluate first")
    questions, audit = out / "questions.parquet", out / "audit.csv"
    run = Run(
        name,
        _table(out / "predictions.parquet"),
        _identity(out / "run.json"),
        _table(questions) if questions.is_file() else None,
        _table(audit) if audit.is_file() else None,
    )
    return _checked(run, str(out / "predictions.parquet"))


def _checked(run: Run, where: str) -> Run:
    if {"attributes", "seed", "data"} - set(run.identity) or "min_n" not in run.identity["data"]:
        raise InputError(
            f"{where}: its run.json does not record the attributes of personas, because an older "
            "version wrote it; evaluate it again"
        )
    names = [str(name) for name in run.identity["attributes"]]
    if missing := [column for column in (*REQUIRED, *names) if column not in run.predictions]:
        raise InputError(f"{where} lacks the column {missing[0]}; evaluate it again")
    if run.predictions.empty:
        raise InputError(f"{where} has no cells; evaluate it again")
    if run.predictions.duplicated(["country", "question_id", *names]).any():
        raise InputError(f"{where} repeats a cell; evaluate it again")
    return run


def _identity(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); evaluate it again") from None


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path) if path.suffix == ".csv" else pq.read_table(path).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is damaged ({reason}); evaluate it again") from None
