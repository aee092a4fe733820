"""References: answers that need no language model, to compare scores with.

uniform     the same probability for every option
mean        the mean answer to the training questions with the same number of options; uniform if
            there are none
no_effect   the country's answer to the question, the same for every persona

`mean` is what can be known without reading the question. `no_effect` uses what no model sees, the
survey's answers to questions that may be held out. It shows how much personas add to them.
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
    """Returns the answers of one of REFERENCES to some cells.

    Args:
      name: one of REFERENCES.
      cells: the cells of `dataset` to answer.
      dataset: the whole survey.
      seen: which of its cells training may see; `mean` uses no others.

    Raises:
      InputError: `name` is unknown.
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


def unknown_scales(
    name: str, cells: pd.DataFrame, dataset: Dataset, seen: Bool[np.ndarray, "all_cells"]
) -> tuple[str, ...]:
    """Returns a mark naming the questions that `mean` answers uniformly, if there are any."""
    means = mean_answers(dataset, seen) if name == "mean" else None
    if means is None or (known := cells["p"].map(len).isin(means)).all():
        return ()
    unknown = ", ".join(map(str, cells.loc[~known, "question_id"].unique()))
    return (f"uniform where training has no scale of that size: {unknown}",)


def marginals(cells: pd.DataFrame) -> dict[tuple[str, str], Float[np.ndarray, "_"]]:
    """Returns the answer of each context, by country and question_id.

    It is the n-weighted mean of the context's finest cells, which count every respondent once.
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
    """Returns the mean answer by number of options; contexts count alike.

    Only cells that name all attributes are used, as in training: coarser cells include respondents
    whose personas are held out.
    """
    finest = dataset.cells["granularity"] == len(dataset.attributes)
    answers: dict[int, list[np.ndarray]] = {}
    for answer in marginals(dataset.cells[finest & seen]).values():
        answers.setdefault(len(answer), []).append(answer)
    return {size: np.mean(np.stack(alike), axis=0) for size, alike in answers.items()}
