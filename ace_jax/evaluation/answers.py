"""Answers to cells: a model's, those of references, and both beside the survey's.

References need no language model:

uniform     the same probability for every option
mean        the mean answer to the training questions with the same number of options; uniform if
            there are none
no_effect   the country's answer to the question, the same for every persona

`mean` is what can be known without reading the question. `no_effect` uses what no model sees, the
survey's answers to questions that may be held out. It shows how much personas add to them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from ace_jax.errors import InputError
from ace_jax.evaluation.alignment import Distributions, alignment_distances, score_table
from ace_jax.evaluation.uncertainty import ALL
from ace_jax.survey.dataset import Dataset

REFERENCES = ("uniform", "mean", "no_effect")
UNALTERED = "unaltered"


@dataclass(frozen=True)
class Answers:
    """Answers to some cells, in their order.

    `p` is the distribution over each question's options (float64), `option_mass` the probability of
    all options before renormalising (1 for a reference), `marks` what a reader of them must know.
    """

    p: list[Float[np.ndarray, "_"]]
    option_mass: Float[np.ndarray, "cells"]
    marks: tuple[str, ...] = ()

    def take(self, rows: Sequence[int]) -> "Answers":
        """Returns some answers, in the given order."""
        return Answers([self.p[row] for row in rows], self.option_mass[list(rows)])


def mean_of(several: Sequence[Answers]) -> Answers:
    """Returns the mean of several answers to the same prompts; of one, itself."""
    if len(several) == 1:
        return several[0]
    p = [np.mean(alike, axis=0) for alike in zip(*(each.p for each in several), strict=True)]
    return Answers(p, np.mean([each.option_mass for each in several], axis=0))


def predictions_table(cells: pd.DataFrame, answers: Answers) -> pd.DataFrame:
    """Returns the columns of predictions.parquet: cells and answers, their distance and score."""
    p_model = pd.Series(answers.p, cells.index, object)
    distance = alignment_distances(*map(Distributions.of, (cells["p"], p_model)))
    return cells.rename(columns={"p": "p_data"}).assign(
        p_model=p_model, option_mass=answers.option_mass, distance=distance, score=1 - distance
    )


def answers_table(predictions: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    """Returns answers.csv: a row a cell and option.

    Columns are those of `predictions_table` that say who answers what, then option (1..K),
    option_text, p_data, p_model and option_mass.
    """
    labels = questions.set_index("question_id")["option_labels"]
    who = predictions.columns.drop(["p_data", "p_model", "distance", "score"])
    table = predictions[[*who, "p_data", "p_model"]].assign(
        option=predictions["p_data"].map(lambda p: np.arange(1, len(p) + 1)),
        option_text=predictions["question_id"].map(labels).map(list),
    )
    columns = ["option", "option_text", "p_data", "p_model"]
    long = table.explode(columns, ignore_index=True)
    return long[[*who.drop("option_mass"), *columns, "option_mass"]]


def reference_answers(
    name: str, cells: pd.DataFrame, dataset: Dataset, seen: Bool[np.ndarray, "all_cells"]
) -> Answers:
    """Returns the answers of one of REFERENCES to some cells.

    `dataset` is the whole survey, `seen` says which of its cells training may see; `mean` uses no
    others. Raises InputError for an unknown name.
    """
    if name not in REFERENCES:
        raise InputError(f"reference: {name!r} is not one of {', '.join(REFERENCES)}")
    sizes, marks = cells["p"].map(len), tuple[str, ...]()
    if name == "no_effect":
        answer_of = _country_answers(dataset.cells)
        p = [answer_of[key] for key in zip(cells["country"], cells["question_id"], strict=True)]
    else:
        means = _mean_answers(dataset, seen) if name == "mean" else {}
        p = [means.get(size, np.full(size, 1 / size)) for size in sizes]
        unknown = cells.loc[~sizes.isin(means), "question_id"].unique()
        if name == "mean" and len(unknown):
            named = ", ".join(map(str, unknown))
            marks = (f"uniform where training has no scale of that size: {named}",)
    return Answers(p, np.ones(len(cells)), marks)


def _country_answers(cells: pd.DataFrame) -> dict[tuple[str, str], Float[np.ndarray, "_"]]:
    """Returns the answer of each country and question_id.

    It is the n-weighted mean of their finest cells, which count every respondent once.
    """
    context = ["country", "question_id"]
    finest = cells.groupby(context)["granularity"].transform("max") == cells["granularity"]
    return {
        (str(country), str(question)): np.average(list(its["p"]), axis=0, weights=its["n"])
        for (country, question), its in cells[finest].groupby(context)
    }


def _mean_answers(
    dataset: Dataset, seen: Bool[np.ndarray, "all_cells"]
) -> dict[int, Float[np.ndarray, "_"]]:
    """Returns the mean answer by number of options; countries and questions count alike.

    Only cells that name all attributes are used, as in training: coarser cells include respondents
    whose personas are held out.
    """
    finest = dataset.cells["granularity"] == len(dataset.attributes)
    answers: dict[int, list[np.ndarray]] = {}
    for answer in _country_answers(dataset.cells[finest & seen]).values():
        answers.setdefault(len(answer), []).append(answer)
    return {size: np.mean(np.stack(alike), axis=0) for size, alike in answers.items()}


def audit_table(cells: pd.DataFrame, answers: Mapping[str, Answers]) -> pd.DataFrame:
    """Returns the score over all countries by variant and granularity, and how far answers moved.

    `answers` are by variant, UNALTERED among them. Columns are variant, granularity, n_cells,
    n_questions, score, ci_low, ci_high (as in the rows ALL of `score_table`), moved (mean alignment
    distance from the unaltered answers) and option_mass (mean).
    """
    p = {name: Distributions.of(pd.Series(of.p, dtype=object)) for name, of in answers.items()}
    tables = []
    for name, given in answers.items():
        moved = alignment_distances(p[name], p[UNALTERED])
        predictions = predictions_table(cells, given).assign(moved=moved)
        means = predictions.groupby(["granularity", "country"])[["moved", "option_mass"]].mean()
        means = means.groupby("granularity").mean().reset_index()
        scores = score_table(predictions)
        overall = scores[scores["country"] == ALL].drop(columns="country")
        tables.append(overall.merge(means, on="granularity").assign(variant=name))
    table = pd.concat(tables, ignore_index=True)
    return table[["variant", *table.columns.drop("variant")]]
