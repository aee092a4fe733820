"""What is learned from: pairs, and the prompts and survey answers of their endpoints."""

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
from ace_jax.experiment import Survey
from ace_jax.prompts.encode import PromptStyle, PromptText, render_cells
from ace_jax.recipe import PAIR_WEIGHTS
from ace_jax.survey.dataset import Dataset, select_questions
from ace_jax.survey.estimators import pair_precision
from ace_jax.survey.pairs import mode, toggle_pairs
from ace_jax.survey.readers.release_train import ReleasePairs, is_release_train, read_train
from ace_jax.survey.readers.sources import load_survey
from ace_jax.survey.split import HeldOut, Split

Source = Dataset | ReleasePairs
Chosen = Callable[[pd.DataFrame, Bool[np.ndarray, "pairs"]], pd.DataFrame]


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


@dataclass(frozen=True)
class TrainingData:
    """A survey, split.

    Attributes:
      survey: its record.
      held_out: the ids that training does not see.
      train: what training sees.
      validation: held-out examples to validate on; None without validation.
    """

    survey: Survey
    held_out: HeldOut
    train: Examples
    validation: Examples | None


def open_source(path: str) -> Source:
    """Opens `data.path`: a built-in survey, a DATASET, or the authors' cells or training file."""
    return read_train(Path(path)) if is_release_train(Path(path)) else load_survey(path)


def training_data(
    config: ConfigDict, split: Split | None = None, source: Source | None = None
) -> TrainingData:
    """Splits the survey of a config into what training sees and what it does not.

    Args:
      config: of `train`.
      split: what training must not see; None: `data.holdout`, drawn by the config's seed.
      source: the survey, if it is open already.

    Raises:
      InputError: settings that do not fit the survey, or nothing left to train or validate on.
    """
    source = open_source(config.data.path) if source is None else source
    split = split or Split(config.data.holdout, config.seed)
    weight = config.objective.pair_weight
    if isinstance(source, Dataset):
        dataset = select_questions(source, config.data.questions)
        style = PromptStyle.of(**config.prompt)
        held_out = split.held_out(dataset)
        pairs = toggle_pairs(dataset.cells, dataset.attributes, min_n=config.data.min_n)
        ends = pairs[["cell_0", "cell_1"]].to_numpy()
        unseen = held_out.cells(dataset)[ends].any(axis=1)
        survey = Survey.of(source, config.data.path, tuple(config.data.questions))

        def examples(chosen: pd.DataFrame) -> Examples:
            return of_dataset(dataset, chosen, style, weight)

    else:
        if config.data.questions:
            raise InputError("data.questions: needs a DATASET; the authors' file does not name all")
        pairs = source.pairs
        unseen = split.held_out_of_pairs(pairs)
        held_out = _ids_of(pairs, unseen)
        survey = _survey_of_release(source, config.data.path)

        def examples(chosen: pd.DataFrame) -> Examples:
            return of_release(replace(source, pairs=chosen), weight)

    train = examples(_kept(pairs, ~unseen, "leaves none of", config))
    validation = None
    if config.validation.every_steps is not None:
        drawn = _drawn(_kept(pairs, unseen, "holds out none of", config), config)
        validation = examples(drawn)
    learned = "-".join(digest(each) for each in (train, validation) if each)
    return TrainingData(replace(survey, examples=learned), held_out, train, validation)


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
    """Returns the examples of the authors' training file, with its own prompts.

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


def digest(examples: Examples) -> str:
    """Returns the SHA-256 (hex) of all that a run learns from: prompts, answers, pairs, weights."""
    hashed = hashlib.sha256()
    for prompt, answer in zip(examples.prompts, examples.answers, strict=True):
        hashed.update(json.dumps([prompt.text, *prompt.labels]).encode())
        hashed.update(np.asarray(answer, np.float64).tobytes())
    for name in ("cell_0", "cell_1", "weight"):
        hashed.update(examples.pairs[name].to_numpy().tobytes())
    return hashed.hexdigest()


def _kept(
    pairs: pd.DataFrame, which: Bool[np.ndarray, "pairs"], otherwise: str, config: ConfigDict
) -> pd.DataFrame:
    if not which.any():
        raise InputError(
            f"data.holdout {config.data.holdout} {otherwise} {len(pairs)} pairs; hold out "
            f"{'less' if 'leaves' in otherwise else 'more'}"
        )
    return pairs[which].reset_index(drop=True)


def _drawn(pairs: pd.DataFrame, config: ConfigDict) -> pd.DataFrame:
    """Returns at most `validation.pairs` pairs: whole contexts in an order that the seed draws."""
    order = np.random.default_rng(config.seed).permutation(pairs["context"].unique())
    rank = pd.Series(np.arange(len(order)), index=order)
    drawn = pairs["context"].map(rank).sort_values(kind="stable").index[: config.validation.pairs]
    return pairs.loc[drawn].reset_index(drop=True)


def _ids_of(pairs: pd.DataFrame, unseen: Bool[np.ndarray, "pairs"]) -> HeldOut:
    """Returns the questions and countries of which training sees no pair."""
    gone = {
        name: tuple(sorted(set(pairs.loc[unseen, name]) - set(pairs.loc[~unseen, name])))
        for name in ("question_id", "country")
    }
    return HeldOut(questions=gone["question_id"], countries=gone["country"], personas=())


def _survey_of_release(release: ReleasePairs, path: str) -> Survey:
    return Survey(
        name=Path(path).name,
        path=path,
        digest=digest(of_release(release, "none")),
        questions=(),
        attributes={},
        countries=tuple(sorted(map(str, release.pairs["country"].unique()))),
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
