"""What is taken of a survey: which countries and questions, in whose labels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.codebook import Code, Codebook, Question

# The paper's 240 of World Values Survey wave 7 have yes/no and unordered ones among them.
QUESTIONS: dict[str, Callable[[Question], bool]] = {
    "all": lambda question: True,
    "all-240": lambda question: question.paper,
    "strictly-ordinal": lambda question: question.paper and question.ordinal,
}
EVERY_COUNTRY = ["ALL"]
# The paper's tiers (section 4.2, RQ2) of the fourteen countries of its Table 1.
TIERS = {
    "TIER1": ["USA", "DEU", "GBR", "AUS", "NZL"],
    "TIER2": ["CHL", "MEX", "RUS", "IND", "JPN", "PHL"],
    "TIER3": ["EGY", "ETH", "NGA"],
}


@dataclass(frozen=True)
class Selection:
    """What the user asked for.

    `countries` are alpha-3 codes or keys of TIERS, or EVERY_COUNTRY, or None for the codebook's own
    list and, where it has none, for all; `questions` is a key of QUESTIONS.
    """

    countries: list[str] | None = None
    questions: str = "all"


def select(
    table: pd.DataFrame, codebook: Codebook, chosen: Selection
) -> tuple[pd.DataFrame, Codebook, dict[str, Any]]:
    """Returns the table and the codebook with only what is chosen, and what the manifest says.

    Raises InputError for a country that the table lacks, or if nobody or no question is left.
    """
    all_questions = len(codebook.questions)
    codebook = with_questions(codebook, chosen.questions)
    taken: dict[str, Any] = {"questions": chosen.questions}
    if left_out := all_questions - len(codebook.questions):
        taken["left_out"] = {f"not among {chosen.questions}": left_out}
    asked = chosen.countries and [
        country for name in chosen.countries for country in TIERS.get(name, [name])
    ]
    if codebook.country_column is None:
        if asked not in (None, EVERY_COUNTRY, [codebook.country]):
            raise InputError(f"--countries: all respondents of the input are of {codebook.country}")
        return table, codebook, taken
    table = in_countries(table, codebook, asked)
    countries = sorted(table[codebook.country_column].dropna().unique())
    wanted = codebook.countries if asked is None else ()
    absent = sorted(set(wanted) - set(countries))
    return table, codebook, taken | {"countries": countries, "countries_not_in_input": absent}


def with_questions(codebook: Codebook, name: str) -> Codebook:
    """Returns the codebook with only the questions of the preset `name`."""
    questions = tuple(filter(QUESTIONS[name], codebook.questions))
    if not questions:
        raise InputError(f"--questions {name}: the survey has none such; leave it out")
    kept = {question.question_id for question in questions}
    dropped = {column: codes for column, codes in codebook.dropped.items() if column in kept}
    merged = {column: codes for column, codes in codebook.merged.items() if column in kept}
    return replace(codebook, questions=questions, dropped=dropped, merged=merged)


def with_labels(codebook: Codebook, labels: Mapping[str, Mapping[Code, str]]) -> Codebook:
    """Returns the codebook with the labels of a file (column -> code -> label) for its options.

    The options, their order and the questions' texts stay. An option that the file does not label
    keeps its label, as do those of a question whose labels in the file are not told apart.
    """
    return replace(
        codebook,
        questions=tuple(
            _labelled(question, labels.get(question.question_id, {}))
            for question in codebook.questions
        ),
    )


def _labelled(question: Question, labels: Mapping[Code, str]) -> Question:
    options = zip(question.option_codes, question.option_labels, strict=True)
    new = tuple(labels.get(code, label).strip() for code, label in options)
    return replace(question, option_labels=new) if len(set(new)) == len(new) else question


def in_countries(
    table: pd.DataFrame, codebook: Codebook, countries: list[str] | None
) -> pd.DataFrame:
    """Keeps the respondents of some countries (alpha-3), by default of the codebook's.

    Raises InputError for a country asked for that the table lacks, or if nobody is left.
    """
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
