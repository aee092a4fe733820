"""What is learnt from: pairs, and the prompts and the survey's answers of their endpoints."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from ace_jax.errors import InputError
from ace_jax.prompts.encode import PromptStyle, PromptText, render_cells
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.estimators import pair_precision
from ace_jax.survey.pairs import mode
from ace_jax.survey.release import ReleasePairs

PAIR_WEIGHTS = ("none", "precision")


@dataclass(frozen=True)
class Examples:
    """Pairs and their endpoints, each endpoint once.

    Attributes:
      pairs: columns `cell_0` and `cell_1` (int64, positions in the lists; A=0 and A=1), `country`,
        `question_id`, `attribute`, `context` (contiguous), and `weight` (float64, mean 1).
      prompts: what the model reads, by endpoint.
      answers: the survey's distribution over the options, by endpoint.
      modes: position of the most frequent option, by endpoint (Eq. 13).
    """

    pairs: pd.DataFrame
    prompts: list[PromptText]
    answers: list[Float[np.ndarray, "_"]]
    modes: list[int]


def of_dataset(
    dataset: Dataset, pairs: pd.DataFrame, style: PromptStyle, pair_weight: str
) -> Examples:
    """Returns the examples of some pairs of a dataset, in the table's order.

    Args:
      dataset: cells and questions.
      pairs: as `survey.pairs.toggle_pairs` gives them, of `dataset.cells`.
      style: how a cell is put to the model.
      pair_weight: `none`, or `precision` for the inverse variance of a pair's effect.

    Raises:
      InputError: another pair weight.
    """
    endpoints, index = np.unique(pairs[["cell_0", "cell_1"]].to_numpy(), return_inverse=True)
    cells = dataset.cells.iloc[endpoints]
    answers = list(dataset.learnt.iloc[endpoints])
    cell_0, cell_1 = index.reshape(-1, 2).T
    sizes = cells["effective_n"].to_numpy()
    return Examples(
        pairs=pairs.assign(
            cell_0=cell_0, cell_1=cell_1, weight=_weights(pair_weight, sizes[cell_0], sizes[cell_1])
        ),
        prompts=render_cells(cells, dataset, style),
        answers=answers,
        modes=[mode(answer) for answer in answers],
    )


def of_release(release: ReleasePairs, pair_weight: str) -> Examples:
    """Returns the examples of the authors' training file, prompts as they stand in it.

    Raises `InputError` for pair weights: the file does not say how many respondents answered.
    """
    if pair_weight != "none":
        raise InputError(
            f"objective.pair_weight {pair_weight}: the authors' training file has no numbers of "
            "respondents; set it to none, or train on a DATASET"
        )
    prompts = [PromptText(*prompt) for prompt in zip(release.texts, release.labels, strict=True)]
    return Examples(release.pairs.assign(weight=1.0), prompts, release.answers, release.modes)


def _weights(
    kind: str, size_0: Float[np.ndarray, "Q"], size_1: Float[np.ndarray, "Q"]
) -> Float[np.ndarray, "Q"]:
    if kind not in PAIR_WEIGHTS:
        raise InputError(f"objective.pair_weight: {kind!r} is not {' or '.join(PAIR_WEIGHTS)}")
    return pair_precision(size_0, size_1) if kind == "precision" else np.ones(len(size_0))
