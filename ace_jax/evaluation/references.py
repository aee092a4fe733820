"""Answers that need no model, without which a score cannot be read.

uniform     every option alike
mean        the mean of the training questions with the same number of options, whatever they ask;
            uniform where training has none of that size
no_effect   what the country as a whole answered to the very question, whoever is asked

`mean` is what can be known without reading a question. `no_effect` knows what no model is told, the
survey's answer to a question that may be held out: it is a yardstick for what personas add to that.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from ace_jax.errors import InputError
from ace_jax.evaluation.answers import Answers
from ace_jax.survey.dataset import Dataset

REFERENCES = ("uniform", "mean", "no_effect")
CONTEXT = ["country", "question_id"]


def reference_answers(
    name: str, cells: pd.DataFrame, dataset: Dataset, seen: Bool[np.ndarray, "all_cells"]
) -> Answers:
    """Returns what one of REFERENCES answers to some cells.

    Args:
      name: of the reference.
      cells: those to answer, of `dataset`.
      dataset: the whole survey.
      seen: which of its cells training may see; `mean` looks at no other.

    Raises:
      InputError: another name.
    """
    if name not in REFERENCES:
        raise InputError(f"reference: {name!r} is not one of {', '.join(REFERENCES)}")
    sizes = cells["p"].map(len)
    if name == "no_effect":
        answer_of = marginals(dataset.cells)
        contexts = zip(cells["country"], cells["question_id"], strict=True)
        p = [answer_of[context] for context in contexts]
    else:
        means = mean_answers(dataset, seen) if name == "mean" else {}
        p = [means.get(size, np.full(size, 1 / size)) for size in sizes]
    return Answers(p, np.ones(len(cells)))


def without_mean(
    cells: pd.DataFrame, dataset: Dataset, seen: Bool[np.ndarray, "all_cells"]
) -> list[str]:
    """Returns the ids of the questions that `mean` answers uniformly, having nothing to go by."""
    means = mean_answers(dataset, seen)
    unknown = cells.loc[~cells["p"].map(len).isin(means), "question_id"]
    return [str(question) for question in unknown.unique()]


def marginals(cells: pd.DataFrame) -> dict[tuple[str, str], Float[np.ndarray, "_"]]:
    """Returns the country's answer by country and question_id: the n-weighted mean of its cells.

    Those are the finest that there are of the context, among which every respondent is once.
    """
    finest = cells.groupby(CONTEXT)["granularity"].transform("max") == cells["granularity"]
    answers = {}
    for (country, question), group in cells[finest].groupby(CONTEXT):
        p = np.stack(group["p"].to_list())
        answers[str(country), str(question)] = np.average(p, axis=0, weights=group["n"])
    return answers


def mean_answers(
    dataset: Dataset, seen: Bool[np.ndarray, "all_cells"]
) -> dict[int, Float[np.ndarray, "_"]]:
    """Returns the mean answer by number of options; every country's question counts alike.

    Only cells that name all attributes are used, as in training: in coarser ones are respondents of
    personas that are held out.
    """
    finest = dataset.cells["granularity"] == len(dataset.attributes)
    answers: dict[int, list[np.ndarray]] = {}
    for answer in marginals(dataset.cells[finest & seen]).values():
        answers.setdefault(len(answer), []).append(answer)
    return {size: np.mean(np.stack(alike), axis=0) for size, alike in answers.items()}
