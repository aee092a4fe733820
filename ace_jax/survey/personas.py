"""Attributes, and the personas made of them (paper 3.1 and 3.2.1)."""

from dataclasses import dataclass
from itertools import combinations as subsets
from itertools import product


@dataclass(frozen=True)
class Attribute:
    """A demographic attribute; `levels[0]` is A=0 (the reference), `levels[1]` is A=1."""

    name: str
    levels: tuple[str, ...]


ATTRIBUTES = (
    Attribute("gender", ("Male", "Female")),
    Attribute("education", ("College Educated", "Not College Educated")),
    Attribute("residence", ("Urban", "Rural")),
    Attribute("marital_status", ("Married", "Not Married")),
)


def combinations(
    attributes: tuple[Attribute, ...], granularity: int
) -> tuple[tuple[Attribute, ...], ...]:
    """Returns every choice of `granularity` attributes, in the order of `attributes`."""
    return tuple(subsets(attributes, granularity))


def personas(attributes: tuple[Attribute, ...], granularity: int) -> tuple[dict[str, str], ...]:
    """Returns every persona that names exactly `granularity` attributes: attribute -> level."""
    return tuple(
        {attribute.name: level for attribute, level in zip(chosen, levels, strict=True)}
        for chosen in combinations(attributes, granularity)
        for levels in product(*(attribute.levels for attribute in chosen))
    )
