"""What is learned from: pairs, the prompts and answers of their endpoints, laid out as arrays."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from ace_jax.errors import InputError
from ace_jax.experiment import Survey
from ace_jax.model.sharding import place_everywhere, place_scoring
from ace_jax.prompts.batches import Scoring, Shapes, Targets, scoring
from ace_jax.prompts.encode import Prompt, PromptStyle, PromptText, render_cells
from ace_jax.survey.dataset import Dataset, select_questions
from ace_jax.survey.estimators import pair_precision
from ace_jax.survey.pairs import COUNTRY, mode, toggle_pairs, toggle_weights
from ace_jax.survey.readers.release_train import ReleasePairs, is_release_train, read_train
from ace_jax.survey.readers.sources import load_survey, paths_of
from ace_jax.survey.split import HeldOut, Split

Source = Dataset | ReleasePairs

# What fields have to be with the authors' training file, and why.
RELEASE = {
    "prompt.option_order": ("as_given", "it gives whole prompts"),
    "prompt.language": ("en", "its prompts are English"),
    "data.questions": ((), "it does not name all questions"),
    "data.granularity": (None, "it has the finest cells only"),
    "objective.toggles": (("attributes",), "it has no pair between countries"),
    "objective.pair_weight": ("none", "it has no numbers of respondents"),
}


@dataclass(frozen=True)
class Examples:
    """Pairs, and by endpoint, each once, its prompt, the survey's answer and its mode (Eq. 13).

    Where training draws one of two orders of options, the prompts in the other order come behind.
    `pairs` has columns `cell_0` and `cell_1` (int64, positions in the lists; A=0 and A=1),
    `country`, `question_id`, `attribute`, `context` (contiguous), and `weight` (float64, mean 1).
    """

    pairs: pd.DataFrame
    prompts: list[PromptText]
    answers: list[Float[np.ndarray, "_"]]
    modes: list[int]

    @property
    def doubled(self) -> "Examples":
        """Every pair again behind the last one, as its options are listed in the other order."""
        if len(self.prompts) <= len(self.answers):
            return self
        moved = self.pairs[["cell_0", "cell_1"]] + len(self.answers)
        both = pd.concat([self.pairs, self.pairs.assign(**moved)], ignore_index=True)
        return Examples(both, self.prompts, 2 * self.answers, 2 * self.modes)


@dataclass(frozen=True)
class TrainingData:
    """A survey, split: its record, the ids held out, and the examples of both sides."""

    survey: Survey
    held_out: HeldOut
    train: Examples
    validation: Examples | None


def training_data(
    config: ConfigDict,
    split: Split | None = None,
    source: Source | None = None,
    style: PromptStyle | None = None,
) -> TrainingData:
    """Splits a survey into what training sees and what it does not.

    `split` and `source` are those of the config where they are not given. Raises `InputError` for
    settings that do not fit the survey, or nothing left to train or validate on.
    """
    path = ",".join(paths_of(config.data.path))
    split = split or Split(config.data.holdout, config.seed)
    if source is None:
        source = read_train(Path(path)) if is_release_train(Path(path)) else load_survey(path)
    if isinstance(source, Dataset):
        dataset = select_questions(source, config.data.questions)
        style = style or PromptStyle.of(**config.prompt)
        held_out = split.held_out(dataset)
        pairs = _pairs(dataset, held_out, config)
        unseen = held_out.cells(dataset)[pairs[["cell_0", "cell_1"]].to_numpy()].any(axis=1)
        survey = Survey.of(source, path, tuple(config.data.questions))
        weight = config.objective.pair_weight
        examples = partial(of_dataset, dataset, style=style, pair_weight=weight)
    else:
        _check_release(config)
        pairs = source.pairs
        unseen = split.held_out_of_pairs(pairs)
        held_out = _ids_of(pairs, unseen)
        survey = Survey(
            name=Path(path).name,
            path=path,
            digest=digest(of_release(source, pairs)),
            questions=(),
            attributes={},
            countries=tuple(sorted(map(str, pairs["country"].unique()))),
        )
        examples = partial(of_release, source)
    train, validation = examples(_kept(pairs, ~unseen, "leaves none of", config)), None
    if config.validation.every_steps is not None:
        validation = examples(_drawn(_kept(pairs, unseen, "holds out none of", config), config))
    learned = "-".join(digest(each) for each in (train, validation) if each)
    return TrainingData(replace(survey, examples=learned), held_out, train, validation)


def of_dataset(
    dataset: Dataset, pairs: pd.DataFrame, style: PromptStyle, pair_weight: str
) -> Examples:
    """Returns the examples of some pairs of a dataset (`toggle_pairs`), in the table's order.

    `pair_weight` is `none`, `precision` for the inverse variance of a pair's effect, or `toggle`
    (`toggle_weights`).
    """
    endpoints, (cell_0, cell_1) = _endpoints(pairs)
    cells, answers = dataset.cells.iloc[endpoints], list(dataset.learnt.iloc[endpoints])
    weight: Float[np.ndarray, _] | float = 1.0
    if pair_weight == "precision":
        weight = pair_precision(cells, np.stack([cell_0, cell_1], axis=1))
    elif pair_weight == "toggle":
        weight = toggle_weights(pairs["attribute"])
    listed = (render_cells(cells, dataset, style, order) for order in style.listings)
    return Examples(
        pairs=pairs.assign(cell_0=cell_0, cell_1=cell_1, weight=weight),
        prompts=list(chain.from_iterable(listed)),
        answers=answers,
        modes=[mode(answer) for answer in answers],
    )


def of_release(release: ReleasePairs, pairs: pd.DataFrame) -> Examples:
    """Returns the examples of some pairs of the authors' training file, with its own prompts."""
    endpoints, (cell_0, cell_1) = _endpoints(pairs)
    return Examples(
        pairs=pairs.assign(cell_0=cell_0, cell_1=cell_1, weight=1.0),
        prompts=[PromptText(release.texts[cell], release.labels[cell]) for cell in endpoints],
        answers=[release.answers[cell] for cell in endpoints],
        modes=[release.modes[cell] for cell in endpoints],
    )


def digest(examples: Examples) -> str:
    """Returns the SHA-256 (hex) of all that a run learns from: prompts, answers, pairs, weights."""
    hashed = hashlib.sha256()
    for prompt in examples.prompts:
        hashed.update(json.dumps([prompt.text, *prompt.labels]).encode())
    for answer in examples.answers:
        hashed.update(np.asarray(answer, np.float64).tobytes())
    for name in ("cell_0", "cell_1", "weight"):
        hashed.update(examples.pairs[name].to_numpy().tobytes())
    return hashed.hexdigest()


def _pairs(dataset: Dataset, held_out: HeldOut, config: ConfigDict) -> pd.DataFrame:
    granularity, attributes = config.data.granularity, dataset.attributes
    if granularity not in (None, *range(1, len(attributes) + 1)):
        raise InputError(
            f"data.granularity: {granularity} is not a number of attributes that personas can "
            f"name; use 1 to {len(attributes)}, or None for the finest"
        )
    if held_out.personas and granularity not in (None, len(attributes)):
        raise InputError(
            "data.granularity: coarser cells include the respondents of personas held out; leave "
            "it out, or hold out questions or countries"
        )
    return toggle_pairs(
        dataset.cells,
        attributes,
        min_n=config.data.min_n,
        granularity=granularity,
        countries=COUNTRY in config.objective.toggles,
    )


def _check_release(config: ConfigDict) -> None:
    """Raises `InputError` for what the authors' training file cannot do."""
    for where, (needed, why) in RELEASE.items():
        section, name = where.split(".")
        value = config[section][name]
        if (tuple(value) if isinstance(value, list) else value) != needed:
            raise InputError(
                f"{where}: {value} does not go with the authors' training file: {why}; "
                f"set it to {needed}, or train on a DATASET"
            )


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
    drawn = pairs.sort_values(
        "context", kind="stable", key=lambda contexts: contexts.map(rank), ignore_index=True
    )
    return drawn[: config.validation.pairs]


def _ids_of(pairs: pd.DataFrame, unseen: Bool[np.ndarray, "pairs"]) -> HeldOut:
    """Returns the questions and countries of which training sees no pair."""
    questions, countries = (
        tuple(sorted(set(pairs.loc[unseen, name]) - set(pairs.loc[~unseen, name])))
        for name in ("question_id", "country")
    )
    return HeldOut(questions, countries, personas=())


def _endpoints(pairs: pd.DataFrame) -> tuple[Int[np.ndarray, "C"], Int[np.ndarray, "2 Q"]]:
    """Returns the cells that pairs are of, each once, and the pairs' positions among them."""
    cells, index = np.unique(pairs[["cell_0", "cell_1"]].to_numpy(), return_inverse=True)
    return cells, index.reshape(-1, 2).T


@dataclass(frozen=True)
class TrainingBatch:
    """One step's data; `rows` are those of the pairs table, to name the batch by."""

    scoring: Scoring
    targets: Targets
    rows: Int[np.ndarray, "Q"]

    def placed(self, mesh: Mesh) -> tuple[Scoring, Targets]:
        """Puts the batch, the same on every process, on the mesh."""
        return place_scoring(self.scoring, mesh), place_everywhere(self.targets, mesh)


@dataclass(frozen=True)
class Collate:
    """Rows of the pairs table to arrays of fixed shapes; `prompts` are the examples', tokenised.

    Examples in both orders of options are to be `doubled`.
    """

    examples: Examples
    prompts: list[Prompt]
    shapes: Shapes
    max_pairs: int  # Q

    @property
    def max_cells(self) -> int:
        """C: endpoints are shared, so at most two a pair and never more than there are."""
        return min(2 * self.max_pairs, len(self.prompts))

    def __call__(self, units: list[np.ndarray]) -> TrainingBatch:
        """Lays out the pairs of some units; each endpoint is computed once."""
        rows = np.concatenate(units)
        cells, slots = _endpoints(self.examples.pairs.iloc[rows])
        layout = scoring([self.prompts[cell] for cell in cells], self.shapes, self.max_cells)
        targets = Targets(
            p_data=np.zeros((self.max_cells, self.shapes.options), np.float32),
            mode=np.zeros(self.max_cells, np.int32),
            pairs=np.zeros((self.max_pairs, 2), np.int32),
            pair_weight=np.zeros(self.max_pairs, np.float32),
        )
        for slot, cell in enumerate(cells):
            answer = self.examples.answers[cell]
            targets.p_data[slot, : len(answer)] = answer
            targets.mode[slot] = self.examples.modes[cell]
        targets.pairs[: len(rows)] = slots.T
        targets.pair_weight[: len(rows)] = self.examples.pairs["weight"].iloc[rows]
        return TrainingBatch(layout, targets, rows)
