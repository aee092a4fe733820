"""Stand-ins for a model's config, a survey and a tokenizer that this machine does not have.

The survey has the questions of the World Values Survey's codebook, each asked of all personas of
one country. Its answers are uniform: they do not change the shapes of a batch.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ace_jax.errors import InputError
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.formats.hub import Description, describe
from ace_jax.prompts.encode import PromptText
from ace_jax.survey.codebook import BUILTIN, read_codebook
from ace_jax.survey.dataset import Dataset, question_table
from ace_jax.survey.personas import ATTRIBUTES, personas

MODELS = Path(__file__).parent / "models"
# A batch holds neighbouring questions of a country, and seldom two groups of one country.
COUNTRIES = ("AND", "BRA", "CAN", "EGY", "JPN", "KEN", "NZL", "USA")
# Words of more than nine letters count as two: Llama 3 makes about as many tokens of them.
WORDS = Regex(r"\n+|\w{1,9}|[^\w\s]")
UNKNOWN = "?"


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
    return Description(path, architecture, None, None), (
        "the config.json in this package; the model itself is not on this machine"
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
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(WORDS, "removed", invert=True)
    texts = {text for prompt in prompts for text in (prompt.text, *prompt.labels)}
    trainer = trainers.WordLevelTrainer(special_tokens=[UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(sorted(texts), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN)
