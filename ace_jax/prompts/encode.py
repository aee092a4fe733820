"""Cells to token sequences: a prompt and the tokens of each of its options."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pandas as pd
import pycountry
from transformers import PreTrainedTokenizerBase

from ace_jax.errors import InputError
from ace_jax.prompts.template import PromptTemplate, options_of
from ace_jax.prompts.trie import Tokens
from ace_jax.survey.personas import ATTRIBUTES


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt and t(y), the tokens of each option's verbalisation (Eq. 2)."""

    tokens: Tokens
    options: tuple[Tokens, ...]


@dataclass(frozen=True)
class PromptStyle:
    """How a cell is put to the model.

    Attributes:
      template: what the prompt says.
      option_style: how options are labelled, `number` or `letter`.
      chat: whether the prompt is a user's turn in the tokenizer's chat template.
    """

    template: PromptTemplate
    option_style: str
    chat: bool

    @classmethod
    def of(cls, template: str, option_style: str, chat: bool) -> "PromptStyle":
        """Reads the config's `prompt`."""
        return cls(PromptTemplate.load(template), option_style, chat)


def encode_cells(
    cells: pd.DataFrame,
    questions: pd.DataFrame,
    style: PromptStyle,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Prompt]:
    """Returns the prompt of each cell, in order.

    Args:
      cells: columns country (ISO 3166-1 alpha-3), question_id and the attributes.
      questions: columns question_id, text, option_labels.
      style: how a cell is put to the model.
      tokenizer: the model's.

    Raises:
      InputError: an option's label melts into the prompt's last token, or no chat template.
    """
    question_of = {
        row["question_id"]: (
            row["text"],
            options_of(tuple(row["option_labels"]), style.option_style),
        )
        for row in questions.to_dict("records")
    }
    names = [attribute.name for attribute in ATTRIBUTES]
    texts, labels = [], []
    for cell in cells.to_dict("records"):
        persona = {name: cell[name] for name in names if isinstance(cell[name], str)}
        question, options = question_of[cell["question_id"]]
        texts.append(
            style.template.render(country_name(cell["country"]), persona, question, options)
        )
        labels.append(tuple(option.label for option in options))
    if style.chat:
        texts = [_as_chat(text, tokenizer) for text in texts]
    # A chat template writes its own special tokens.
    encoded = tokenizer(texts, add_special_tokens=not style.chat)["input_ids"]

    @cache
    def continuation(end: str, label: str) -> Tokens:
        return _continuation(end, label, tokenizer)

    return [
        Prompt(tuple(tokens), tuple(continuation(_end(text), label) for label in cell_labels))
        for text, tokens, cell_labels in zip(texts, encoded, labels, strict=True)
    ]


def check_vocabulary(prompts: Sequence[Prompt], vocab_size: int) -> None:
    """Raises `InputError` where a token has no row in the model's embedding."""
    largest = max(max(tokens) for prompt in prompts for tokens in (prompt.tokens, *prompt.options))
    if largest >= vocab_size:
        raise InputError(
            f"the tokenizer gives token {largest}, but the model has {vocab_size}; "
            "put the model's own tokenizer beside its weights"
        )


@cache
def country_name(code: str) -> str:
    """Returns the English name of an ISO 3166-1 alpha-3 code, or the code where it is unknown."""
    country = pycountry.countries.get(alpha_3=code)
    return code if country is None else getattr(country, "common_name", country.name)


def _as_chat(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.chat_template is None:
        raise InputError("prompt.chat: this model's tokenizer has no chat template")
    turns = [{"role": "user", "content": text.rstrip()}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _end(text: str) -> str:
    # The last word and the blanks after it: nothing further left changes how a label is cut.
    return text[re.search(r"\S*\s*\Z", text).start() :]  # type: ignore[union-attr]


def _continuation(end: str, label: str, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    before = tokenizer(end, add_special_tokens=False)["input_ids"]
    whole = tokenizer(end + label, add_special_tokens=False)["input_ids"]
    if whole[: len(before)] != before or len(whole) == len(before):
        raise InputError(
            f"prompt.template: the option label {label!r} melts into the prompt's end {end!r} "
            "for this tokenizer; end the template with a line break"
        )
    return tuple(whole[len(before) :])
