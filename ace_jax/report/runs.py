"""What evaluated runs left in their OUT directories, brought to the same cells.

A method is one run, or several that differ in their seed only.
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


@dataclass(frozen=True)
class Run:
    """One OUT directory.

    `predictions`: as `evaluate` writes them. `identity`: its run.json. `questions`: question_id,
    topic, text, option_labels, or None where it was written without. `audit`: its audit.csv, if
    there is one.
    """

    name: str
    predictions: pd.DataFrame
    identity: Mapping[str, Any]
    questions: pd.DataFrame | None
    audit: pd.DataFrame | None

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """What its personas are made of."""
        return attributes_of(self.identity["attributes"])

    @property
    def is_reference(self) -> bool:
        """Whether no model was asked (`analysis.references`)."""
        return bool(self.identity.get("reference"))

    @property
    def holds_out_personas(self) -> bool:
        """Whether what was scored are combinations of levels that training did not see."""
        data = self.identity.get("data") or {}
        held_out = str(data.get("holdout", "")).startswith("persona:")
        return held_out and data.get("split") == "held_out"


@dataclass(frozen=True)
class Method:
    """What is compared: a run or, under one name, its repetitions with other seeds."""

    name: str
    seeds: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run that stands for all of them where seeds do not matter."""
        return self.seeds[0]

    @property
    def p_model(self) -> pd.Series:
        """The mean over seeds of what is answered in each cell; they are on the same cells."""
        if len(self.seeds) == 1:
            return self.first.predictions["p_model"]
        answers = [Distributions.of(run.predictions["p_model"]) for run in self.seeds]
        mean = np.mean([one.p for one in answers], axis=0)
        rows = [p[:options] for p, options in zip(mean, answers[0].options, strict=True)]
        return pd.Series(rows, self.first.predictions.index, object)

    @property
    def audit(self) -> pd.DataFrame | None:
        """The mean over those seeds that were audited."""
        audits = [run.audit for run in self.seeds if run.audit is not None]
        if len(audits) < 2:
            return audits[0] if audits else None
        return (
            pd.concat(audits).groupby(["variant", "granularity"], sort=False).mean().reset_index()
        )


def read_method(name: str, outs: Sequence[Path]) -> Method:
    """Reads the OUT directories of a method's seeds. Raises InputError as `read_run` does."""
    called = [name] if len(outs) == 1 else [f"{name} ({out})" for out in outs]
    return Method(name, tuple(map(read_run, called, outs)))


def read_run(name: str, out: Path) -> Run:
    """Reads an OUT directory.

    Raises InputError for one that is incomplete, damaged, or of a version that did not yet record
    its attributes.
    """
    for file in ("predictions.parquet", "run.json"):
        if not (out / file).is_file():
            raise InputError(f"{out}: {file} is missing; run ace_jax.evaluate first")
    identity = _identity(out / "run.json")
    predictions = _parquet(out / "predictions.parquet")
    names = [str(name) for name in identity["attributes"]]
    if missing := [column for column in (*REQUIRED, *names) if column not in predictions]:
        raise InputError(
            f"{out / 'predictions.parquet'} lacks the column {missing[0]}; evaluate it again"
        )
    if predictions.empty:
        raise InputError(f"{out / 'predictions.parquet'} has no cells; evaluate it again")
    if predictions.duplicated(["country", "question_id", *names]).any():
        raise InputError(f"{out / 'predictions.parquet'} repeats a cell; evaluate it again")
    questions, audit = out / "questions.parquet", out / "audit.csv"
    return Run(
        name,
        predictions,
        identity,
        _parquet(questions) if questions.is_file() else None,
        _csv(audit) if audit.is_file() else None,
    )


def on_common_cells(methods: Sequence[Method]) -> tuple[tuple[Method, ...], tuple[str, ...]]:
    """Returns the methods on the cells that all runs have, and what was left out, in sentences.

    Cells stay in the order of the first run. Raises InputError where the runs' personas are made
    of other attributes, where they share no cell, or where they know other answers of the survey.
    """
    runs = [run for method in methods for run in method.seeds]
    first = runs[0]
    names = [attribute.name for attribute in first.attributes]
    for run in runs[1:]:
        if run.attributes != first.attributes:
            raise InputError(
                f"the runs {first.name} and {run.name} have personas of other attributes; "
                "report on them apart"
            )
    key = ["country", "question_id", *names]
    if all(run.predictions[key].equals(first.predictions[key]) for run in runs):
        aligned, notes = list(runs), list[str]()
    else:
        aligned, notes = _aligned(runs, key)
    for run in aligned[1:]:
        _check_same_survey(aligned[0], run)
        run.predictions["p_data"] = aligned[0].predictions["p_data"].to_numpy()  # kept once
    rest = iter(aligned)
    common = [replace(one, seeds=tuple(islice(rest, len(one.seeds)))) for one in methods]
    return tuple(common), tuple(notes)


def _aligned(runs: Sequence[Run], key: list[str]) -> tuple[list[Run], list[str]]:
    common = runs[0].predictions[key]
    for run in runs[1:]:
        common = common.merge(run.predictions[key], on=key)  # a missing level is a key like others
    if common.empty:
        raise InputError(
            f"the runs {', '.join(run.name for run in runs)} have no cell in common; "
            "evaluate them with the same data and hold-out"
        )
    aligned = [
        replace(run, predictions=common.merge(run.predictions, on=key, validate="one_to_one"))
        for run in runs
    ]
    notes = [
        f"{run.name}: {len(run.predictions) - len(common):,} of its {len(run.predictions):,} cells "
        f"are left out, because not every run has them{_lost(run.predictions, common)}."
        for run in runs
        if len(run.predictions) > len(common)
    ]
    return aligned, [
        *notes,
        f"All comparisons are on the {len(common):,} cells that all runs have.",
    ]


def _lost(had: pd.DataFrame, common: pd.DataFrame) -> str:
    """Names the countries that are gone altogether, and says how many questions are."""
    countries = sorted(set(had["country"]) - set(common["country"]))
    questions = len(set(had["question_id"]) - set(common["question_id"]))
    lost = [f"all of {', '.join(countries)}"] if countries else []
    lost += [f"{questions} questions altogether"] if questions else []
    return f" ({'; '.join(lost)})" if lost else ""


def _check_same_survey(first: Run, run: Run) -> None:
    one, other = (of.predictions["p_data"].to_numpy() for of in (first, run))
    same_options = list(map(len, one)) == list(map(len, other))
    if not same_options or not np.allclose(np.concatenate(one), np.concatenate(other), atol=1e-6):
        raise InputError(
            f"the runs {first.name} and {run.name} were scored against other answers of the "
            "survey; evaluate both with the same data"
        )


def _identity(path: Path) -> dict[str, Any]:
    try:
        identity = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); evaluate it again") from None
    older = {"attributes", "seed", "data"} - set(identity) or "min_n" not in identity["data"]
    if older:
        raise InputError(
            f"{path} does not say what personas are made of: an older version wrote it; evaluate "
            "it again"
        )
    return identity


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pq.read_table(path).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is damaged ({reason}); evaluate it again") from None


def _csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); evaluate it again") from None
