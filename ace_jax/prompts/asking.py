"""Questions that a survey does not have, and the personas to ask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pycountry

from ace_jax.errors import InputError, check_known
from ace_jax.prompts.encode import PromptStyle, PromptText, render


@dataclass(frozen=True)
class Question:
    """A question to ask.

    Attributes:
      text: its wording; [COUNTRY] stands for the name of the country.
      options: texts of the answers, in order.
      id: names it in tables; the text if empty.

    Raises `InputError` for an empty text, or for options that are empty, fewer than two, or repeat.
    """

    text: str
    options: tuple[str, ...]
    id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        object.__setattr__(self, "id", self.id or self.text)
        if not self.text.strip():
            raise InputError(f"question {self.id!r}: has no text")
        if len(self.options) < 2 or not all(option.strip() for option in self.options):
            raise InputError(f"question {self.id!r}: needs two options or more, none of them empty")
        if len(set(self.options)) < len(self.options):
            raise InputError(f"question {self.id!r}: gives an option twice")


def attributes_named(
    personas: Sequence[Mapping[str, str]], known: Mapping[str, Sequence[str]]
) -> list[str]:
    """Returns the attributes that personas name, those of a survey first and in its order.

    Args:
      personas: `country` (ISO 3166-1 alpha-3) and levels by attribute.
      known: levels by attribute of the survey; empty: any are taken.

    Raises:
      InputError: a persona without a country, or an unknown country, attribute or level.
    """
    countries = {country.alpha_3 for country in pycountry.countries}
    named: dict[str, None] = {}
    for persona in personas:
        if "country" not in persona:
            raise InputError(f"persona {dict(persona)}: has no country (ISO 3166-1 alpha-3)")
        check_known(persona["country"], countries, "country")
        for name in persona.keys() - {"country"}:
            if known:
                check_known(name, known, "attribute")
                check_known(persona[name], known[name], f"level of {name}")
        named |= dict.fromkeys(name for name in persona if name != "country")
    return [
        *(name for name in known if name in named),
        *(name for name in named if name not in known),
    ]


def question_prompt(
    question: Question, persona: Mapping[str, str], names: Sequence[str], style: PromptStyle
) -> PromptText:
    """Returns the prompt that asks one persona one question.

    The attributes are named in the order of `names`, as in training.
    """
    levels = {name: persona[name] for name in names if name in persona}
    return render(persona["country"], levels, question.text, question.options, style)
