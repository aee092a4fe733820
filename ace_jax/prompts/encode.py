"""Cells to token sequences: a prompt and the tokens of each of its options."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import pandas as pd
import pycountry
from transformers import PreTrainedTokenizerBase

from ace_jax.errors import InputError
from ace_jax.prompts.template import PromptTemplate, in_chat, options_of
from ace_jax.prompts.trie import Tokens
from ace_jax.survey.codebook import COUNTRY
from ace_jax.survey.dataset import Dataset


@dataclass(frozen=True)
class PromptText:
    """What the model reads, and each option's verbalisation in option order."""

    text: str
    labels: tuple[str, ...]


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
      chat: whether a prompt is a user's turn in the model's chat template.
    """

    template: PromptTemplate
    option_style: str
    chat: bool = False

    @classmethod
    def of(cls, template: str, option_style: str, chat: bool = False) -> "PromptStyle":
        """Reads the fields of `config.prompt`; raises `InputError` for unknown names."""
        options_of(("", ""), option_style)
        return cls(PromptTemplate.load(template), option_style, chat)


def render_cells(cells: pd.DataFrame, dataset: Dataset, style: PromptStyle) -> list[PromptText]:
    """Returns the prompt of each cell, in order.

    Args:
      cells: columns country (ISO 3166-1 alpha-3), question_id and the attributes.
      dataset: gives the texts of the questions and the names of the attributes.
      style: how a cell is put to the model.
    """
    question_of = {
        row["question_id"]: (row["text"], tuple(row["option_labels"]))
        for row in dataset.questions.to_dict("records")
    }
    names = [attribute.name for attribute in dataset.attributes]
    prompts = []
    for cell in cells.to_dict("records"):
        persona = {name: cell[name] for name in names if isinstance(cell[name], str)}
        prompts.append(render(cell["country"], persona, *question_of[cell["question_id"]], style))
    return prompts


def render(
    country: str,
    persona: Mapping[str, str],
    text: str,
    options: tuple[str, ...],
    style: PromptStyle,
) -> PromptText:
    """Returns the prompt that asks one persona one question.

    Args:
      country: ISO 3166-1 alpha-3 code; its English name takes the place of [COUNTRY].
      persona: level by attribute, only those that it names.
      text: of the question.
      options: texts, in order.
      style: how it is put to the model.
    """
    name = country_name(country)
    labelled = options_of(
        tuple(option.replace(COUNTRY, name) for option in options), style.option_style
    )
    prompt = style.template.render(name, persona, text.replace(COUNTRY, name), labelled)
    return PromptText(prompt, tuple(option.label for option in labelled))


def encode(
    prompts: Sequence[PromptText], tokenizer: PreTrainedTokenizerBase, *, chat: bool
) -> list[Prompt]:
    """Returns each prompt's tokens, in order.

    With `chat`, a prompt is a user's turn in the tokenizer's chat template.

    Raises:
      InputError: an option's label melts into the prompt's last token; no chat template, or one
        that fails.
    """
    texts = [prompt.text for prompt in prompts]
    if chat:
        texts = in_chat(texts, tokenizer)
    # A chat template writes its own special tokens.
    encoded = tokenizer(texts, add_special_tokens=not chat)["input_ids"]

    @cache
    def continuation(end: str, label: str) -> Tokens:
        return _continuation(end, label, tokenizer)

    return [
        Prompt(tuple(tokens), tuple(continuation(_end(text), label) for label in prompt.labels))
        for prompt, text, tokens in zip(prompts, texts, encoded, strict=True)
    ]


def check_prompts(prompts: Sequence[Prompt], vocab_size: int, window: int | None) -> None:
    """Raises `InputError` where the model cannot read a prompt as it is meant to be read.

    Args:
      prompts: tokenised.
      vocab_size: rows of the model's embedding.
      window: how many tokens back the model's attention reaches, None for any number.
    """
    largest = max(max(tokens) for prompt in prompts for tokens in (prompt.tokens, *prompt.options))
    if largest >= vocab_size:
        raise InputError(
            f"the tokenizer gives token {largest}, but the model has {vocab_size}; "
            "put the model's own tokenizer beside its weights"
        )
    longest = max(len(prompt.tokens) + max(map(len, prompt.options)) for prompt in prompts)
    if window is not None and longest > window:
        raise InputError(
            f"a prompt has {longest} tokens with its answer, more than the {window} of the model's "
            "sliding_window; shorten the question or prompt.template"
        )


@cache
def country_name(code: str) -> str:
    """Returns the English name of an ISO 3166-1 alpha-3 code, or the code where it is unknown."""
    country = pycountry.countries.get(alpha_3=code)
    return code if country is None else getattr(country, "common_name", country.name)


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
