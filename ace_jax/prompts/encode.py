"""Cells and new questions to token sequences: a prompt and the tokens of each of its options."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import pandas as pd
from transformers import PreTrainedTokenizerBase

from ace_jax.errors import InputError, check_known
from ace_jax.prompts.language import ENGLISH, country_name, wordings
from ace_jax.prompts.options import ORDERS, check_options, listed
from ace_jax.prompts.template import PromptTemplate, in_chat
from ace_jax.prompts.trie import Tokens
from ace_jax.survey.codebook import COUNTRY
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.personas import RESERVED, country_names


@dataclass(frozen=True)
class Question:
    """A question that a survey need not have.

    Raises `InputError` for an empty text, for options that are empty, fewer than two, or repeat,
    and for codes that are not one an option.
    """

    text: str
    """Its wording; [COUNTRY] stands for the name of the country."""
    options: tuple[str, ...]
    """Texts of the answers, in order."""
    id: str = ""
    """Names it in tables; the text if empty."""
    topic: str = ""
    codes: tuple[int, ...] = ()
    """The questionnaire's numbers of the options, for the option style `code`; 1..K if empty."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        object.__setattr__(self, "id", self.id or self.text)
        codes = tuple(self.codes) or tuple(range(1, len(self.options) + 1))
        object.__setattr__(self, "codes", codes)
        if not self.text.strip():
            raise InputError(f"question {self.id!r}: has no text")
        if len(self.options) < 2 or not all(option.strip() for option in self.options):
            raise InputError(f"question {self.id!r}: needs two options or more, none of them empty")
        if len(set(self.options)) < len(self.options):
            raise InputError(f"question {self.id!r}: gives an option twice")
        if len(set(self.codes)) < len(self.codes) or len(self.codes) != len(self.options):
            raise InputError(
                f"question {self.id!r}: has {len(self.options)} options and the codes "
                f"{', '.join(map(str, self.codes))}; give each option its own"
            )


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
    """How a cell is put to the model."""

    template: PromptTemplate
    option_style: str = "number"
    """How options are labelled: `number`, `letter`, `text`, or `code`, the survey's own."""
    chat: bool = False
    """Whether a prompt is a user's turn in the model's chat template."""
    option_order: str = "as_given"
    """How options are listed: `as_given`, `reversed`, or `both`, whose answers are averaged."""
    language: str = ENGLISH
    """Of the prompts: `en` (the codebook's texts), another, or `country`: each country's own."""

    def __post_init__(self) -> None:
        check_options(self.option_style, self.option_order)

    @classmethod
    def of(
        cls,
        template: str,
        option_style: str = "number",
        chat: bool = False,
        option_order: str = "as_given",
        language: str = ENGLISH,
    ) -> "PromptStyle":
        """Reads the fields of `config.prompt`; raises `InputError` for unknown names."""
        return cls(PromptTemplate.load(template), option_style, chat, option_order, language)

    @property
    def listings(self) -> tuple[bool, ...]:
        """The orders in which options are listed: whether the last option comes first."""
        return ORDERS[self.option_order]


def render_cells(
    cells: pd.DataFrame, dataset: Dataset, style: PromptStyle, last_first: bool = False
) -> list[PromptText]:
    """Returns the prompt of each cell (country, question_id and attributes), in order.

    Raises `InputError` where the survey or the template lacks the style's language.
    """
    codes = {
        name: tuple(its)
        for name, its in dataset.questions.set_index("question_id")["option_codes"].items()
    }
    said = wordings(dataset, style.language, cells["country"].unique())
    prompts = []
    for cell in cells.to_dict("records"):
        name, words = cell["question_id"], said[cell["country"]]
        asked = words.questions[name]["text"], tuple(words.questions[name]["options"]), codes[name]
        persona = {of: its[cell[of]] for of, its in words.levels.items() if pd.notna(cell[of])}
        persona["country"] = cell["country"]
        prompts.append(render(*asked, persona, style, last_first, words.language))
    return prompts


def render(
    text: str,
    options: tuple[str, ...],
    codes: tuple[int, ...],
    persona: Mapping[str, str],
    style: PromptStyle,
    last_first: bool = False,
    language: str | None = None,
) -> PromptText:
    """Returns the prompt that asks one persona one question.

    The country's name takes the place of [COUNTRY].

    Args:
      text: of the question.
      options: their texts, in the survey's order.
      codes: the survey's numbers of them.
      persona: its country (ISO 3166-1 alpha-3) and the levels of the attributes that it names.
      style: how it is put.
      last_first: whether the last option is listed first.
      language: of the words, and of the country's name; None: English, as the style is to be.

    Raises `InputError` for a template or a style in another language.
    """
    if language is None and style.language != ENGLISH:
        raise InputError(
            f"prompt.language: these prompts are in {style.language}, and a question of your own is"
            f" asked in {ENGLISH} only; add it to the survey's codebook, and evaluate"
        )
    language, levels = language or ENGLISH, dict(persona)
    if language not in style.template.languages:
        raise InputError(
            f"prompt.template: {style.template.name} is in {', '.join(style.template.languages)}, "
            f"and prompt.language asks for {language}; give a file that is in it and begins with "
            f"{{# language: {language} -#}}"
        )
    name = country_name(levels.pop("country"), language)
    named = tuple(option.replace(COUNTRY, name) for option in options)
    lines = listed(named, codes, style.option_style, last_first)
    question = text.replace(COUNTRY, name)
    prompt = style.template.render(name, levels, question, lines, style.option_style, language)
    labels = tuple(option.label for option in lines)
    return PromptText(prompt, labels[::-1] if last_first else labels)


def attributes_named(
    personas: Sequence[Mapping[str, str]], known: Mapping[str, Sequence[str]]
) -> list[str]:
    """Returns the attributes that personas name, those of a survey first and in its order.

    A persona is its `country` (ISO 3166-1 alpha-3) and levels by attribute. `known` are the levels
    by attribute of the survey; empty: any are taken.

    Raises `InputError` for a persona without a country, or an unknown country, attribute or level.
    """
    named: dict[str, None] = {}
    for persona in personas:
        if "country" not in persona:
            raise InputError(f"persona {dict(persona)}: has no country (ISO 3166-1 alpha-3)")
        check_known(persona["country"], country_names(), "country")
        levels = {name: level for name, level in persona.items() if name != "country"}
        if reserved := RESERVED & levels.keys():
            raise InputError(f"persona: {min(reserved)!r} cannot be the name of an attribute")
        for name, level in levels.items() if known else ():
            check_known(name, known, "attribute")
            check_known(level, known[name], f"level of {name}")
        named |= dict.fromkeys(levels)
    return [name for name in {**known, **named} if name in named]


def encode(
    prompts: Sequence[PromptText], tokenizer: PreTrainedTokenizerBase, *, chat: bool
) -> list[Prompt]:
    """Returns each prompt's tokens, in order.

    With `chat`, a prompt is a user's turn in the tokenizer's chat template.

    Raises `InputError` where an option's label melts into the prompt's last token, for a tokenizer
    that makes no token of a text or ends a prompt with a token of its own, and for a chat template
    that is missing or fails.
    """
    bare, whole = (tokenizer("1", add_special_tokens=each)["input_ids"] for each in (False, True))
    if not bare:
        raise InputError("the tokenizer makes no token of the text 1; fetch it again")
    if not chat and whole[-1] != bare[-1]:
        raise InputError(
            "the tokenizer ends a prompt with a token of its own, after which no answer follows; "
            "set add_eos_token to false in tokenizer_config.json"
        )
    texts = in_chat([prompt.text for prompt in prompts], tokenizer, chat)
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

    `vocab_size` are the rows of the model's embedding. `window` is how many tokens back its
    attention reaches, None for any number.
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
