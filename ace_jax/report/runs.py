"""Evaluated runs: read from directories or tables, and brought to the same cells.

A method is one run, or several runs that differ in their seed only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ace_jax.errors import InputError
from ace_jax.evaluation.alignment import Distributions
from ace_jax.files import check_digests, read_object
from ace_jax.survey.personas import Attribute, attributes_of

REQUIRED = ("country", "question_id", "granularity", "n", "effective_n", "p_data", "p_model")
REFERENCES = "references.parquet"
RECORD = "ace_jax"  # the key of `DataFrame.attrs` that holds a run's record

RunLike = pd.DataFrame | str | Path
Methods = Mapping[str, Sequence["Run"]]


@dataclass(frozen=True)
class Run:
    """What `evaluate` wrote of one run; `identity` is its run.json, `name` is for messages.

    `predictions` also have `cell`, their row in predictions.parquet. `references` is the file of
    that name, None if there is none.
    """

    name: str
    predictions: pd.DataFrame
    questions: pd.DataFrame
    identity: Mapping[str, Any]
    references: Path | None = None

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attributes of its personas."""
        return attributes_of(self.identity["attributes"])

    @property
    def holds_out_personas(self) -> bool:
        """Whether the cells scored are exactly those of personas that training did not see."""
        data = self.identity["data"]
        blocks = str(data.get("holdout", "")).split(",")
        personas = all(block.strip().startswith("persona:") for block in blocks)
        return personas and data.get("split") == "held_out"


def read_runs(name: str, runs: RunLike | Sequence[RunLike]) -> tuple[Run, ...]:
    """Reads a method: its run, or its runs with other seeds.

    Raises InputError if there is none, a directory is given twice, or a run is incomplete.
    """
    seeds = [runs] if isinstance(runs, pd.DataFrame | str | Path) else list(runs)
    paths = [Path(run).resolve() for run in seeds if not isinstance(run, pd.DataFrame)]
    if not seeds or len(set(paths)) < len(paths):
        problem = "a run is given twice" if seeds else "has no run"
        raise InputError(f"{name}: {problem}; give each seed its own directory")
    places = [i if isinstance(run, pd.DataFrame) else run for i, run in enumerate(seeds)]
    labels = [name] if len(seeds) == 1 else [f"{name} ({place})" for place in places]
    return tuple(map(_read, labels, seeds))


def on_common_cells(methods: Methods) -> tuple[dict[str, list[Run]], list[str]]:
    """Returns the methods on the cells that all runs share, and sentences on what was left out.

    Cells keep the order of the first run. Raises InputError if the runs' personas have different
    attributes, if the runs share no cell, or if the survey's answers differ between them.
    """
    first, *others = runs = [run for of in methods.values() for run in of]
    key = ["country", "question_id", *(attribute.name for attribute in first.attributes)]
    common = first.predictions[key]
    for run in others:
        if run.attributes != first.attributes:
            raise InputError(
                f"the runs {first.name} and {run.name} have personas of other attributes; "
                "report on them apart"
            )
        if not run.predictions[key].equals(common):
            common = common.merge(run.predictions[key], on=key)  # a missing level matches another
    if common.empty:
        raise InputError(
            f"the runs {', '.join(run.name for run in runs)} have no cell in common; "
            "evaluate them with the same data and hold-out"
        )
    aligned, notes = list[Run](), list[str]()
    for run in runs:
        table = run.predictions
        if not table[key].equals(common):
            table = common.merge(table, on=key, validate="one_to_one")
        known = aligned[0].predictions["p_data"] if aligned else table["p_data"]
        one, other = Distributions.of(known), Distributions.of(table["p_data"])
        same_options = np.array_equal(one.options, other.options)
        if not same_options or not np.allclose(one.p, other.p, atol=1e-6):
            raise InputError(
                f"the runs {first.name} and {run.name} were scored against other answers of the "
                "survey; evaluate both with the same data"
            )
        # The survey's answers are in memory once.
        aligned.append(replace(run, predictions=table.assign(p_data=known.to_numpy())))
        if left := len(run.predictions) - len(common):
            countries = sorted(set(run.predictions["country"]) - set(common["country"]))
            questions = run.predictions["question_id"].nunique() - common["question_id"].nunique()
            notes.append(
                f"{run.name}: {left:,} of its {len(run.predictions):,} cells are left out, because "
                f"not every run has them (all of {', '.join(countries) or 'no country'}; all of "
                f"{questions} questions)."
            )
    if notes:
        notes.append(f"All comparisons use the {len(common):,} cells that all runs have.")
    rest = iter(aligned)
    return {name: [next(rest) for _ in of] for name, of in methods.items()}, notes


def reference_runs(run: Run) -> dict[str, list[Run]]:
    """Returns references on the cells of a run, as methods; none if the run has no file of them.

    Raises InputError for a file that is damaged, or that lacks a cell.
    """
    if run.references is None:
        return {}
    table = _load(run.references)
    found = {}
    try:
        for name in table["reference"].unique():
            its = table[table["reference"] == name]
            answers = pd.Series(its["p"].to_numpy(), its["cell"])[run.predictions["cell"]]
            predictions = run.predictions.assign(p_model=answers.to_numpy())
            sizes = predictions["p_model"].map(len)
            if not sizes.equals(predictions["p_data"].map(len)):
                raise ValueError(f"{name} has answers of another size")
            found[str(name)] = [replace(run, name=str(name), predictions=predictions)]
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{run.references} is damaged ({error}); evaluate it again") from None
    return found


def known_questions(runs: Sequence[Run]) -> pd.DataFrame:
    """Returns question_id, topic, text, option_labels (lists) of the questions scored."""
    recorded = pd.concat([run.questions for run in runs]).drop_duplicates("question_id")
    recorded = recorded.assign(option_labels=recorded["option_labels"].map(list))
    return runs[0].predictions[["question_id"]].drop_duplicates().merge(recorded, on="question_id")


def marks_of(runs: Sequence[Run]) -> list[str]:
    """Returns the marks that runs recorded, each with its run's name, and differences of bases."""
    marks = [
        f"{run.name}: {str(mark).rstrip('.')}."
        for run in runs
        for mark in run.identity.get("marks") or ()
    ]
    bases: dict[str, list[str]] = {}
    for run in runs:
        if found := (run.identity.get("model") or {}).get("fingerprint"):
            bases.setdefault(str(found), []).append(run.name)
    if len(bases) > 1:
        apart = "; ".join(f"{', '.join(names)}: {base[:12]}" for base, names in bases.items())
        marks.append(f"The runs were scored on different base models (fingerprints: {apart}).")
    return marks


def _read(name: str, source: RunLike) -> Run:
    if isinstance(source, pd.DataFrame):
        where, record = name, source.attrs.get(RECORD)
        if not record:
            raise InputError(
                f"{name}: the table has no record of its run in attrs[{RECORD!r}]; pass what "
                "LanguageModel.score returned, or the directory that evaluate wrote"
            )
        table = source.reset_index(drop=True)
        table.attrs = {}  # pandas would copy the record in every operation
        run = Run(name, table, pd.DataFrame(record["questions"]), record["run"])
    else:
        where, out = str(source), Path(source)
        identity = read_object(out / "run.json", "an output of ace_jax.evaluate")
        tables, references = ["predictions.parquet", "questions.parquet"], out / REFERENCES
        check_digests(out, identity.pop("files", {}), [*tables, REFERENCES])
        predictions, questions = (_load(out / table) for table in tables)
        found = references if references.is_file() else None
        run = Run(name, predictions, questions, identity, found)
    if {"attributes", "seed", "data"} - set(run.identity) or "min_n" not in run.identity["data"]:
        raise InputError(f"{where}: run.json lacks attributes, seed or data; evaluate it again")
    names = [str(name) for name in run.identity["attributes"]]
    if missing := [column for column in (*REQUIRED, *names) if column not in run.predictions]:
        raise InputError(f"{where}: the predictions lack {missing[0]}; evaluate it again")
    counts = [run.predictions[name] for name in ("n", "effective_n")]
    answers = [p for name in ("p_data", "p_model") for p in run.predictions[name]]
    if not all(np.isfinite(np.asarray(each, np.float64)).all() for each in (*counts, *answers)):
        raise InputError(f"{where}: the predictions are not all finite numbers; evaluate it again")
    if run.predictions.empty:
        raise InputError(f"{where}: has no cells; evaluate it again")
    if run.predictions.duplicated(["country", "question_id", *names]).any():
        raise InputError(f"{where}: a cell is repeated; evaluate it again")
    return replace(run, predictions=run.predictions.assign(cell=np.arange(len(run.predictions))))


def _load(path: Path) -> Any:
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        problem = f"{path.parent}: {path.name} is missing; run ace_jax.evaluate first"
    except (OSError, LookupError, ValueError, pa.ArrowException) as error:
        problem = f"{path} is damaged ({str(error).splitlines()[0]}); evaluate it again"
    raise InputError(problem)
