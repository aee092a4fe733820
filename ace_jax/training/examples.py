"""What is learnt from: pairs, and the prompts and the survey's answers of their endpoints."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from ace_jax.errors import InputError
from ace_jax.prompts.encode import PromptStyle, PromptText, render_cells
from ace_jax.survey.dataset import Dataset, select_questions
from ace_jax.survey.estimators import pair_precision
from ace_jax.survey.pairs import mode, toggle_pairs
from ace_jax.survey.readers.release_train import ReleasePairs, is_release_train, read_train
from ace_jax.survey.readers.sources import open_dataset
from ace_jax.survey.split import held_out_cells, held_out_pairs

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


def read_examples(config: ConfigDict) -> Examples:
    """Returns what `data.path` has to learn from, without what is held out.

    That is a DATASET, the authors' directory of cells, or their training file of ready prompts.
    Raises `InputError` where nothing is left.
    """

    def seen(pairs: pd.DataFrame, held_out: np.ndarray) -> pd.DataFrame:
        return kept(pairs, ~held_out, f"leaves none of {len(pairs)} pairs to train on", config)

    return _read(config, seen)


def read_held_out(config: ConfigDict, most: int) -> Examples:
    """Returns what `data.path` has that training does not see: at most so many pairs.

    Contexts are taken whole, in an order that the seed draws, as long as they fit; the last one is
    cut. Raises `InputError` where nothing is held out.
    """

    def unseen(pairs: pd.DataFrame, held_out: np.ndarray) -> pd.DataFrame:
        pairs = kept(pairs, held_out, f"holds out none of {len(pairs)} pairs", config)
        order = np.random.default_rng(config.seed).permutation(pairs["context"].unique())
        rank = pd.Series(np.arange(len(order)), index=order)
        drawn = pairs["context"].map(rank).sort_values(kind="stable").index[:most]
        return pairs.loc[drawn].reset_index(drop=True)

    return _read(config, unseen)


def _read(
    config: ConfigDict, choose: Callable[[pd.DataFrame, np.ndarray], pd.DataFrame]
) -> Examples:
    """Returns the examples of the pairs that are chosen, given all and which are held out."""
    path, pair_weight = Path(config.data.path), config.objective.pair_weight
    if is_release_train(path):
        if config.data.questions:
            raise InputError("data.questions: needs a DATASET; the authors' file does not name all")
        release = read_train(path)
        held_out = held_out_pairs(release.pairs, config.data.holdout, config.seed)
        return of_release(replace(release, pairs=choose(release.pairs, held_out)), pair_weight)
    dataset = select_questions(open_dataset(config.data.path), config.data.questions)
    style = PromptStyle.of(config.prompt.template, config.prompt.option_style)
    pairs = choose(*pairs_of(dataset, config))
    return of_dataset(dataset, pairs, style, pair_weight)


def pairs_of(
    dataset: Dataset, config: ConfigDict
) -> tuple[pd.DataFrame, Bool[np.ndarray, "pairs"]]:
    """Returns all pairs, and which have an endpoint that is held out.

    Positions are in `dataset.cells`.
    """
    held_out = held_out_cells(dataset, config.data.holdout, config.seed)
    pairs = toggle_pairs(dataset.cells, dataset.attributes, min_n=config.data.min_n)
    return pairs, held_out[pairs[["cell_0", "cell_1"]].to_numpy()].any(axis=1)


def kept(
    pairs: pd.DataFrame, which: np.ndarray, otherwise: str, config: ConfigDict
) -> pd.DataFrame:
    """Returns some of the pairs; raises `InputError` with what `otherwise` is so for none."""
    if not which.any():
        raise InputError(f"data.holdout {config.data.holdout} {otherwise}")
    return pairs[which].reset_index(drop=True)


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
    endpoints, (cell_0, cell_1) = _endpoints(pairs)
    cells = dataset.cells.iloc[endpoints]
    answers = list(dataset.learnt.iloc[endpoints])
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
    endpoints, (cell_0, cell_1) = _endpoints(release.pairs)
    return Examples(
        pairs=release.pairs.assign(cell_0=cell_0, cell_1=cell_1, weight=1.0),
        prompts=[PromptText(release.texts[cell], release.labels[cell]) for cell in endpoints],
        answers=[release.answers[cell] for cell in endpoints],
        modes=[release.modes[cell] for cell in endpoints],
    )


def _endpoints(pairs: pd.DataFrame) -> tuple[Int[np.ndarray, "C"], Int[np.ndarray, "2 Q"]]:
    """Returns the cells that pairs are of, each once, and the pairs' positions among them."""
    cells, index = np.unique(pairs[["cell_0", "cell_1"]].to_numpy(), return_inverse=True)
    return cells, index.reshape(-1, 2).T


def _weights(
    kind: str, size_0: Float[np.ndarray, "Q"], size_1: Float[np.ndarray, "Q"]
) -> Float[np.ndarray, "Q"]:
    if kind not in PAIR_WEIGHTS:
        raise InputError(f"objective.pair_weight: {kind!r} is not {' or '.join(PAIR_WEIGHTS)}")
    return pair_precision(size_0, size_1) if kind == "precision" else np.ones(len(size_0))


def digest(examples: Examples) -> str:
    """Returns the SHA-256 (hex) of all that a run learns from: prompts, answers, pairs, weights."""
    hashed = hashlib.sha256()
    for prompt, answer in zip(examples.prompts, examples.answers, strict=True):
        hashed.update(json.dumps([prompt.text, *prompt.labels]).encode())
        hashed.update(np.asarray(answer, np.float64).tobytes())
    for name in ("cell_0", "cell_1", "weight"):
        hashed.update(examples.pairs[name].to_numpy().tobytes())
    return hashed.hexdigest()
