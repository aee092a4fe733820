"""The batches to plan for: of the config's survey, or of a stand-in if it is not here."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerBase

from ace_jax.planning.stand_in import stand_in_survey, stand_in_tokenizer
from ace_jax.prompts.batches import Scoring, Shapes, alike, scoring
from ace_jax.prompts.encode import Prompt, PromptStyle, PromptText, encode, render_cells
from ace_jax.recipe import Batch
from ace_jax.survey.dataset import dataset_directory
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.survey.readers.release_train import is_release_train
from ace_jax.survey.readers.sources import load_survey
from ace_jax.training.examples import Examples, of_dataset, training_data
from ace_jax.training.pipeline import Collate, TrainingBatch, Units, training_batches

BATCHES = 8  # laid out; the largest is planned for


@dataclass(frozen=True)
class Workload:
    """What the two steps compute.

    Attributes:
      training: the batch of the training step.
      scoring: the batch of evaluation.
      assumptions: one sentence each.
    """

    training: TrainingBatch
    scoring: Scoring
    assumptions: tuple[str, ...]


def workload(
    config: ConfigDict, tokenizer: PreTrainedTokenizerBase | None, row_shards: int, cells: int
) -> Workload:
    """Lays out the first batches of a config and returns the largest.

    Args:
      config: the config of `train`.
      tokenizer: the model's; None if it is not here.
      row_shards: number of devices that share the rows of a batch.
      cells: number of cells that evaluation scores at a time.

    Raises:
      InputError: `train` refuses the data, the prompts or the batches.
    """
    examples, scored, survey = _read(config, BATCHES * cells)
    words = "the model's tokenizer"
    chat = config.prompt.chat and tokenizer is not None
    if tokenizer is None:
        tokenizer = stand_in_tokenizer(examples.prompts + scored)
        words = "words and punctuation marks instead of the model's tokens; no chat template"
    prompts = encode(examples.prompts, tokenizer, chat=chat)
    shapes = Shapes(config.batch.row_lengths, row_shards, max(map(len, examples.answers)))
    shapes.check(prompts)

    units = Units.cut(examples, Batch(**config.batch))
    collate = Collate(examples, prompts, shapes, units.max_pairs)
    batches = training_batches(units, collate, 1, config.data.shuffle, config.seed)
    training = max(islice(batches, BATCHES), key=lambda batch: _size(batch.scoring))
    layouts = _scoring_batches(encode(scored, tokenizer, chat=chat), shapes, cells)

    tokens = np.mean([len(prompt.tokens) for prompt in prompts])
    rows = " rows of ".join(map(str, training.scoring.tokens.shape))
    return Workload(
        training,
        max(layouts, key=_size),
        (
            f"survey: {survey}",
            f"prompts: {words}, {tokens:.0f} tokens a prompt on average",
            f"batches: the largest of the first {BATCHES}, with {len(training.rows)} pairs and "
            f"{training.scoring.nodes} nodes in {rows}; evaluation scores {cells} cells at a time",
        ),
    )


def _read(config: ConfigDict, most: int) -> tuple[Examples, list[PromptText], str]:
    """Returns what the run trains on, the first cells that evaluation scores, and the survey."""
    path = dataset_directory(config.data.path)
    style = PromptStyle.of(**config.prompt)
    if path.exists():
        examples, name = training_data(config).train, config.data.path
        if is_release_train(path):
            return examples, examples.prompts[:most], name
        survey = load_survey(config.data.path)
    else:
        survey = stand_in_survey()
        pairs = toggle_pairs(survey.cells, survey.attributes, min_n=1)
        examples = of_dataset(survey, pairs, style, "none")
        name = (
            f"{config.data.path} is not here; instead the {len(survey.questions)} questions of the "
            "World Values Survey, each asked of the personas of one country"
        )
    return examples, render_cells(survey.cells.iloc[:most], survey, style), name


def _scoring_batches(prompts: list[Prompt], shapes: Shapes, cells: int) -> Iterator[Scoring]:
    options = max(len(prompt.options) for prompt in prompts)
    shapes = replace(shapes, options=max(options, shapes.options))
    for rows in alike(prompts, cells):
        yield scoring([prompts[row] for row in rows], shapes, cells)


def _size(batch: Scoring) -> tuple[int, int]:
    return batch.tokens.size, batch.stems.size
