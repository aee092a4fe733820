"""Batches of the shapes that a run would have: of its own data where they are, or a stand-in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pandas as pd
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerBase

from ace_jax.planning.stand_in import stand_in_survey, stand_in_tokenizer
from ace_jax.prompts.batches import Scoring, Shapes, alike, scoring
from ace_jax.prompts.encode import Prompt, PromptStyle, PromptText, encode, render_cells
from ace_jax.survey.dataset import Dataset, dataset_directory
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.survey.readers.release_train import is_release_train
from ace_jax.survey.readers.sources import open_dataset
from ace_jax.training.examples import Examples, of_dataset, read_examples
from ace_jax.training.pipeline import Collate, TrainingBatch, Units, training_batches

LOOKED_AT = 8  # batches, of which the largest is taken


@dataclass(frozen=True)
class Workload:
    """What a step is given.

    Attributes:
      training: the largest of the first batches.
      scoring: the same for evaluation.
      cells: how many cells evaluation takes at a time.
      assumptions: what was taken for granted, a sentence each.
    """

    training: TrainingBatch
    scoring: Scoring
    cells: int
    assumptions: tuple[str, ...]

    @property
    def pairs(self) -> int:
        """Pairs of a training batch."""
        return len(self.training.rows)


def workload(
    config: ConfigDict, tokenizer: PreTrainedTokenizerBase | None, row_shards: int, cells: int
) -> Workload:
    """Lays out the batches of a config.

    Args:
      config: of `train`.
      tokenizer: the model's, if it is at hand.
      row_shards: devices that rows are spread over.
      cells: how many cells evaluation takes at a time.

    Raises:
      InputError: what `train` refuses about data, prompts and batches.
    """
    style = PromptStyle.of(config.prompt.template, config.prompt.option_style)
    if dataset_directory(config.data.path).exists():
        examples, texts = read_examples(config), _cells(config, style, LOOKED_AT * cells)
        survey = f"{config.data.path}"
    else:
        dataset = stand_in_survey()
        pairs = toggle_pairs(dataset.cells, dataset.attributes, min_n=1)
        examples = of_dataset(dataset, pairs, style, "none")
        texts = _rendered(dataset, style, LOOKED_AT * cells)
        survey = (
            f"{config.data.path} is not here; instead the {len(dataset.questions)} questions of "
            "the World Values Survey, each put to the personas of one country"
        )
    chat = config.prompt.chat and tokenizer is not None
    words = "the model's tokenizer"
    if tokenizer is None:
        tokenizer = stand_in_tokenizer(examples.prompts + texts)
        words = "words and punctuation marks instead of the model's tokenizer, and no chat template"
    prompts = encode(examples.prompts, tokenizer, chat=chat)
    options = max(map(len, examples.answers))
    shapes = Shapes(config.batch.row_lengths, row_shards, options)
    shapes.check(prompts)
    training = _largest_batch(config, examples, prompts, shapes)
    tokens = np.mean([len(prompt.tokens) for prompt in prompts])
    return Workload(
        training,
        _largest_scoring(encode(texts, tokenizer, chat=chat), shapes, cells),
        cells,
        (
            f"survey: {survey}",
            f"prompts: {words}, {tokens:.0f} tokens a prompt on average",
            f"batches: the largest of the first {LOOKED_AT}, with {len(training.rows)} pairs and "
            f"{training.scoring.nodes} nodes in {_rows(training.scoring)}; evaluation takes "
            f"{cells} cells at a time",
        ),
    )


def _largest_batch(
    config: ConfigDict, examples: Examples, prompts: list[Prompt], shapes: Shapes
) -> TrainingBatch:
    batch = config.batch
    units = Units.cut(examples, batch.unit, batch.size, batch.neighbours)
    collate = Collate(examples, prompts, shapes, units.max_pairs)
    batches = training_batches(units, collate, 1, config.data.shuffle, config.seed)
    return max(islice(batches, LOOKED_AT), key=lambda batch: _size(batch.scoring))


def _largest_scoring(prompts: Sequence[Prompt], shapes: Shapes, cells: int) -> Scoring:
    options = max(len(prompt.options) for prompt in prompts)
    shapes = replace(shapes, options=max(options, shapes.options))
    layouts = (
        scoring([prompts[row] for row in rows], shapes, cells) for rows in alike(prompts, cells)
    )
    return max(layouts, key=_size)


def _cells(config: ConfigDict, style: PromptStyle, most: int) -> list[PromptText]:
    """Returns prompts of cells that evaluation would score; those of training where it has none."""
    if is_release_train(dataset_directory(config.data.path)):
        return read_examples(config).prompts[:most]
    return _rendered(open_dataset(config.data.path), style, most)


def _rendered(dataset: Dataset, style: PromptStyle, most: int) -> list[PromptText]:
    cells: pd.DataFrame = dataset.cells.iloc[:most]
    return render_cells(cells, dataset, style)


def _size(batch: Scoring) -> tuple[int, int]:
    return batch.tokens.size, batch.stems.size


def _rows(batch: Scoring) -> str:
    return " rows of ".join(map(str, batch.tokens.shape))
