"""Attributes, and the personas made of them (paper 3.1 and 3.2.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

import pycountry

from ace_jax.errors import InputError

# What prompts and tables call something else. In a prompt, an attribute called `question` would
# stand in the place of the question.
RESERVED = frozenset(
    (
        *("country", "persona", "question", "options", "option_style", "prompt_language"),
        *("source", "question_id", "topic", "granularity", "n", "effective_n", "p", "weight", "w2"),
        *("p_data", "p_model", "option", "option_mass", "option_text", "distance", "score"),
        *("model", "run", "seed", "attribute", "combination", "variance", "effect"),
        *("p_reversed", "p_low", "p_high", "from_level", "to_level", "effect_reversed"),
        *("cumulative_effect", "mean_effect", "cell"),
    )
)


@dataclass(frozen=True)
class Attribute:
    """A demographic attribute with two levels or more.

    A toggle goes from one level to a later one; with two, `levels[0]` is A=0, `levels[1]` A=1.

    Raises `InputError` for a name in `RESERVED`.
    """

    name: str
    levels: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.name in RESERVED:
            raise InputError(
                f"attribute {self.name!r}: prompts and tables use this name for something else; "
                "rename the attribute"
            )


# The paper's.
ATTRIBUTES = (
    Attribute("gender", ("Male", "Female")),
    Attribute("education", ("College Educated", "Not College Educated")),
    Attribute("residence", ("Urban", "Rural")),
    Attribute("marital_status", ("Married", "Not Married")),
)


# Surveyed apart, and not in ISO 3166-1.
BESIDE_ISO = {"NIR": "Northern Ireland", "XKX": "Kosovo"}


@cache
def country_names() -> dict[str, str]:
    """Returns the English name of every country, by its ISO 3166-1 alpha-3 code."""
    names = {one.alpha_3: getattr(one, "common_name", one.name) for one in pycountry.countries}
    return names | BESIDE_ISO


@cache
def alpha_3() -> dict[str, str]:
    """Returns every country's ISO 3166-1 alpha-3 code by itself and by its alpha-2 code."""
    codes = {one.alpha_2: str(one.alpha_3) for one in pycountry.countries}
    return codes | {"XK": "XKX"} | {code: code for code in country_names()}


def country_of(text: str) -> str | None:
    """Returns the alpha-3 code of a country's code of two or three letters, number or name."""
    try:
        return str(pycountry.countries.lookup(text).alpha_3)
    except LookupError:
        return None


def attributes_of(levels: Mapping[str, Sequence[str]]) -> tuple[Attribute, ...]:
    """Returns the attributes that map to their levels, as the manifest has them."""
    return tuple(Attribute(name, tuple(its)) for name, its in levels.items())


def personas(attributes: tuple[Attribute, ...], granularity: int) -> tuple[dict[str, str], ...]:
    """Returns every persona that names exactly `granularity` attributes: attribute -> level."""
    return tuple(
        {attribute.name: level for attribute, level in zip(chosen, levels, strict=True)}
        for chosen in combinations(attributes, granularity)
        for levels in product(*(attribute.levels for attribute in chosen))
    )
