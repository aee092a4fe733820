"""The batch to plan for, and stand-ins for a model, a survey or a tokenizer not on this machine.

The stand-in survey has the questions of the World Values Survey's codebook, each asked of all
personas of one country. Its answers are uniform: they do not change the shapes of a batch.
"""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ace_jax.answering import Batching
from ace_jax.errors import InputError
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.formats.hub import Description, describe
from ace_jax.prompts.encode import PromptStyle, PromptText, encode
from ace_jax.recipe import Batch
from ace_jax.survey.codebook_file import BUILTIN, read_codebook
from ace_jax.survey.dataset import Dataset, dataset_directory, question_table
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.survey.personas import ATTRIBUTES, personas
from ace_jax.survey.readers.sources import paths_of
from ace_jax.training.data import Collate, Examples, TrainingBatch, of_dataset, training_data
from ace_jax.training.units import Units, training_batches

MODELS = Path(__file__).parent / "models"
BATCHES = 8  # laid out; the largest is planned for
# A batch holds neighbouring questions of a country, and seldom two groups of one country.
COUNTRIES = ("AND", "BRA", "CAN", "EGY", "JPN", "KEN", "NZL", "USA")
# Words of more than nine letters count as two: Llama 3 makes about as many tokens of them.
WORDS = Regex(r"\n+|\w{1,9}|[^\w\s]")


def describe_for_plan(path: str) -> tuple[Description, str]:
    """Returns the description of the model at `model.path`, and where it was found.

    Raises `InputError` if neither the model nor this package has its config.json.
    """
    try:
        return describe(path), "the model's config.json"
    except InputError:
        carried = MODELS / f"{path}.json"
        if not carried.is_file():
            raise
    architecture = LlamaConfig.from_hf(json.loads(carried.read_text()))
    where = "the config.json in this package; the model itself is not on this machine"
    return Description(path, architecture, None, None), where


def workload(
    config: ConfigDict, tokenizer: PreTrainedTokenizerBase | None, mesh: Mesh
) -> tuple[TrainingBatch, list[str]]:
    """Returns the largest of a config's first batches, and the assumptions behind it.

    Raises `InputError` if `train` refuses the data, the prompts or the batches.
    """
    examples, survey = _examples(config)
    words = "the model's tokenizer"
    chat = config.prompt.chat and tokenizer is not None
    if tokenizer is None:
        tokenizer = stand_in_tokenizer(examples.prompts)
        words = "words and punctuation marks instead of the model's tokens; no chat template"
    units, examples = Units.cut(examples, Batch(**config.batch)), examples.doubled
    prompts = encode(examples.prompts, tokenizer, chat=chat)
    shapes = Batching(config.batch.size, config.batch.row_lengths).shapes(prompts, mesh)
    collate = Collate(examples, prompts, shapes, units.max_pairs)
    batches = training_batches(units, collate, 1, config.data.shuffle, config.seed)
    largest = max(
        islice(batches, BATCHES),
        key=lambda batch: (batch.scoring.tokens.size, batch.scoring.stems.size),
    )
    tokens = np.mean([len(prompt.tokens) for prompt in prompts])
    rows = " rows of ".join(map(str, largest.scoring.tokens.shape))
    return largest, [
        f"survey: {survey}",
        f"prompts: {words}, {tokens:.0f} tokens a prompt on average",
        f"batch: the largest of the first {BATCHES}, with {len(largest.rows)} pairs and "
        f"{largest.scoring.nodes} nodes in {rows}",
    ]


def _examples(config: ConfigDict) -> tuple[Examples, str]:
    """Returns what the run trains on, and the survey."""
    if all(dataset_directory(path).exists() for path in paths_of(config.data.path)):
        return training_data(config).train, config.data.path
    survey = stand_in_survey()
    pairs = toggle_pairs(survey.cells, survey.attributes, min_n=1)
    return of_dataset(survey, pairs, PromptStyle.of(**config.prompt), "none"), (
        f"{config.data.path} is not here; instead the {len(survey.questions)} questions of the "
        "World Values Survey, each asked of the personas of one country"
    )


def stand_in_survey() -> Dataset:
    """Returns a cell for every question and persona; each country has a share of the questions."""
    questions = read_codebook(BUILTIN / "wvs7.toml").questions
    share = -(-len(questions) // len(COUNTRIES))
    cells = [
        {"question_id": question.question_id, "country": COUNTRIES[number // share]}
        | {"granularity": granularity, **persona}
        | {"p": np.full(len(question.option_codes), 1 / len(question.option_codes))}
        for number, question in enumerate(questions)
        for granularity in range(1, len(ATTRIBUTES) + 1)
        for persona in personas(ATTRIBUTES, granularity)
    ]
    table = pd.DataFrame(cells).assign(source="wvs7", n=1000, effective_n=1000.0)
    return Dataset(question_table(questions), table, {})


def stand_in_tokenizer(prompts: list[PromptText]) -> PreTrainedTokenizerFast:
    """Returns a tokenizer that knows every word and punctuation mark of some prompts."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(WORDS, "removed", invert=True)
    texts = {text for prompt in prompts for text in (prompt.text, *prompt.labels)}
    trainer = trainers.WordLevelTrainer(special_tokens=["?"], show_progress=False)
    tokenizer.train_from_iterator(sorted(texts), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
