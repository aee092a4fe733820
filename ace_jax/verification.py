"""Whether transformers and peft give the answers with an adapter that this program gives.

They get what a server gets: the text of a prompt and the labels of its options. They cut it into
tokens themselves, with the tokenizer beside the base model, and compute in float32 on the CPU.
"""

import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import softmax
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from ace_jax.errors import InputError, check_positive
from ace_jax.language_model import LanguageModel
from ace_jax.model.formats.hub import Checkpoint
from ace_jax.model.formats.merge import write_checkpoint
from ace_jax.prompts.encode import PromptText, render_cells
from ace_jax.runtime.progress import log
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.readers.sources import load_survey

TOLERANCE = 1e-4  # of an option's probability, in float32
USUAL = "gss2018"


class Sample(NamedTuple):
    """A prompt as this program writes it, as a server is sent it, and a name for tables."""

    name: str
    text: PromptText
    sent: str


def survey_of(model: LanguageModel) -> Dataset:
    """Returns the survey that an adapter was trained on if it is at hand, else the built-in one."""
    survey = model.experiment.survey.reopened() if model.experiment else None
    if survey is None:
        log(f"the adapter's survey is not at hand as it was; the prompts are those of {USUAL}")
        return load_survey(USUAL)
    return survey


def prompts_of(model: LanguageModel, survey: Dataset, count: int) -> list[Sample]:
    """Returns prompts of cells from all over a survey, in the adapter's own style.

    A style that lists options in both orders has one prompt in each order by turns.
    """
    check_positive("--prompts", count)
    rows = np.linspace(0, len(survey.cells) - 1, min(count, len(survey.cells))).astype(int)
    names = ["question_id", "country", *(attribute.name for attribute in survey.attributes)]
    listings = model.style.listings
    asked = []
    for turn, row in enumerate(rows):
        cell, last_first = survey.cells.iloc[[row]], listings[turn % len(listings)]
        (text,) = render_cells(cell, survey, model.style, last_first)
        known = [each for each in cell[names].iloc[0] if isinstance(each, str)]
        order = ["last option first"] if last_first else []
        asked.append(Sample(", ".join(known + order), text, model.sent([text])[0]))
    return asked


def answers_with_peft(
    checkpoint: Checkpoint, adapter: Path, asked: Sequence[Sample], chat: bool
) -> list[Float[np.ndarray, "options"]]:
    """Returns the probability of each option (Eq. 3) by transformers and peft.

    Raises `InputError` where torch or peft is not installed, or a GGUF base cannot be written as a
    Hugging Face directory.
    """
    try:
        import torch
        from peft import PeftModel
    except ImportError as error:
        raise InputError(f"torch and peft are needed ({error}): pip install torch peft") from None
    with tempfile.TemporaryDirectory() as made:
        base = checkpoint.directory or Path(made)
        if checkpoint.directory is None:  # a GGUF file, dequantised for the while
            write_checkpoint(base, checkpoint)
        # use_safetensors: nothing is unpickled.
        bare = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(
            base, local_files_only=True, trust_remote_code=False
        )
    tuned = PeftModel.from_pretrained(bare, str(adapter)).float().eval()

    def tokens(text: str) -> list[int]:
        # A chat template writes its own special tokens.
        return list(tokenizer(text, add_special_tokens=not chat)["input_ids"])

    @lru_cache(maxsize=1)  # labels of one token all follow the same tokens
    def log_probabilities(before: tuple[int, ...]) -> Any:
        with torch.inference_mode():
            return tuned(torch.tensor([before])).logits[0].double().log_softmax(-1)

    def log_likelihood(text: str, label: str) -> float:
        start, whole = len(tokens(text)), tokens(text + label)
        following = log_probabilities(tuple(whole[:-1]))[start - 1 :]
        return sum(float(each[token]) for each, token in zip(following, whole[start:], strict=True))

    return [
        softmax([log_likelihood(each.sent, label) for label in each.text.labels])
        for each in tqdm(asked, unit="prompt", desc="transformers")
    ]


def verify(adapter: Path, base: str | None = None, count: int = 10) -> pd.DataFrame:
    """Compares the answers to `count` prompts.

    `base` is what `model.path` takes; None: the adapter's base model. Returns a row a prompt: its
    name and `difference`, the largest of any option's probability. Raises `InputError` for files
    that are missing, damaged or do not belong together, or where torch and peft are not installed.
    """
    model = LanguageModel.from_pretrained(adapter, base=base, dtype="float32", quantization="none")
    if model.adapter is None:
        raise InputError(f"--adapter {adapter}: is not a PEFT adapter")
    _ = model.lora  # refused at once where it belongs to another base
    asked = prompts_of(model, survey_of(model), count)
    log(f"{model}; {len(asked)} prompts")
    theirs = answers_with_peft(model.checkpoint, adapter, asked, model.style.chat)
    with jax.default_matmul_precision("highest"):  # a GPU rounds float32 otherwise
        ours = model.ask({"": [each.text for each in asked]})[""].p
    differences = [np.abs(one - other).max() for one, other in zip(ours, theirs, strict=True)]
    return pd.DataFrame({"prompt": [each.name for each in asked], "difference": differences})


def check_same(table: pd.DataFrame) -> None:
    """Raises `InputError` naming the largest difference in a table of `verify` beyond TOLERANCE."""
    worst = table.iloc[int(table["difference"].fillna(np.inf).argmax())]
    if not worst["difference"] <= TOLERANCE:
        raise InputError(
            f"transformers and peft answer otherwise: the answer to {worst['prompt']} differs by "
            f"{worst['difference']:.2g}, more than {TOLERANCE:g}"
        )
