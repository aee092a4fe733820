"""A survey as its reader returns it, and the part of it that is taken: countries and questions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.codebook import Codebook, Question

# The paper's 240 questions of World Values Survey wave 7 include yes/no and unordered ones.
QUESTIONS: dict[str, Callable[[Question], bool]] = {
    "all": lambda question: True,
    "all-240": lambda question: question.paper,
    "strictly-ordinal": lambda question: question.paper and question.ordinal,
}
EVERY_COUNTRY = ["ALL"]
# The paper's tiers (section 4.2, RQ2) of the fourteen countries of its Table 1: Western and
# developed, in transition, Africa. It gives no tier to any other country.
TIERS: dict[str, int] = {
    **dict.fromkeys(("USA", "DEU", "GBR", "AUS", "NZL"), 1),
    **dict.fromkeys(("CHL", "MEX", "RUS", "IND", "JPN", "PHL"), 2),
    **dict.fromkeys(("EGY", "ETH", "NGA"), 3),
}


@dataclass(frozen=True)
class Raw:
    """The answers to a survey, as its files have them.

    Attributes:
      table: one row a respondent, codes as in the files.
      codebook: the meaning of its columns and codes.
      notes: what the manifest records beside the codebook's rules.
    """

    table: pd.DataFrame
    codebook: Codebook
    notes: Mapping[str, Any] = field(default_factory=dict)


def select(raw: Raw, countries: Sequence[str] | None = None, questions: str = "all") -> Raw:
    """Keeps some countries and questions, and notes which.

    Args:
      raw: all that the files have.
      countries: alpha-3 codes, TIER1 to TIER3, or EVERY_COUNTRY; by default those of the
        codebook's own list, or all where it has none.
      questions: a key of QUESTIONS.

    Raises InputError for a country that the table lacks, or if no respondent or question is left.
    """
    codebook = with_questions(raw.codebook, questions)
    notes: dict[str, Any] = {**raw.notes, "questions": questions}
    left_out = dict(notes.get("left_out", {}))
    if others := len(raw.codebook.questions) - len(codebook.questions):
        left_out[f"not among {questions}"] = others
    notes["left_out"] = left_out
    asked = countries and [country for name in countries for country in _members(name)]
    if codebook.country_column is None:
        if asked not in (None, EVERY_COUNTRY, [codebook.country]):
            raise InputError(f"--countries: all respondents of the input are of {codebook.country}")
        return Raw(raw.table, codebook, notes)
    table = _in_countries(raw.table, codebook, asked)
    notes["countries"] = sorted(table[codebook.country_column].dropna().unique())
    wanted = codebook.countries if asked is None else ()
    notes["countries_not_in_input"] = sorted(set(wanted) - set(notes["countries"]))
    return Raw(table, codebook, notes)


def with_questions(codebook: Codebook, name: str) -> Codebook:
    """Returns the codebook with only the questions of the preset `name`."""
    questions = tuple(filter(QUESTIONS[name], codebook.questions))
    if not questions:
        raise InputError(f"--questions {name}: the survey has no such question; leave it out")
    return replace(codebook, questions=questions)


def _members(name: str) -> list[str]:
    """Returns the countries of a tier; another name stands for itself."""
    return [country for country, tier in TIERS.items() if name == f"TIER{tier}"] or [name]


def _in_countries(
    table: pd.DataFrame, codebook: Codebook, countries: Sequence[str] | None
) -> pd.DataFrame:
    column = table[codebook.country_column]
    found = sorted(column.dropna().unique())
    if countries == EVERY_COUNTRY or not (countries or codebook.countries):
        return table
    for country in countries or ():
        if country not in found:
            near = get_close_matches(country, found, 1) or found[:1]
            raise InputError(
                f"--countries {country}: no respondent of the input is from there; it has "
                f"{len(found)} countries, such as {near[0]} (ISO 3166-1 alpha-3)"
            )
    kept = column.isin(countries or codebook.countries)
    if not kept.any():
        raise InputError(
            f"the input has none of the default countries, only {', '.join(found[:5])}; "
            "name those wanted with --countries, or give --countries all"
        )
    return table[kept].reset_index(drop=True)
