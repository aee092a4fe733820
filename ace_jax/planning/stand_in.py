"""What stands in for a survey and a tokenizer that are not at hand: batches of about their shapes.

The questions are those of the World Values Survey's codebook, and a question is put to all personas
of one country. Answers do not matter: nothing is computed.
"""

import numpy as np
import pandas as pd
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ace_jax.prompts.encode import PromptText
from ace_jax.survey.codebook import BUILTIN, read_codebook
from ace_jax.survey.dataset import Dataset, question_table
from ace_jax.survey.personas import ATTRIBUTES, personas

# A batch holds neighbouring questions of a country, and seldom two groups of one country.
COUNTRIES = ("AND", "BRA", "CAN", "EGY", "JPN", "KEN", "NZL", "USA")
# Words of more than nine letters count as two, as many tokens as Llama 3 makes of them.
WORDS = Regex(r"\n+|\w{1,9}|[^\w\s]")
UNKNOWN = "?"


def stand_in_survey() -> Dataset:
    """Returns a cell for every question and persona; a country has its share of the questions."""
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
    """Returns a tokenizer of words and punctuation marks that knows all of some prompts."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(WORDS, "removed", invert=True)
    texts = {prompt.text for prompt in prompts} | {
        label for prompt in prompts for label in prompt.labels
    }
    trainer = trainers.WordLevelTrainer(special_tokens=[UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(sorted(texts), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN)
