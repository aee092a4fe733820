"""What is known of a survey before its answers are read: attributes, questions, codes, files.

`codebook_file` reads it from TOML.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf, isfinite
from typing import Any

import numpy as np
import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.codes import Code, spelling
from ace_jax.survey.personas import Attribute

# Stands in a question's text for the name of the country in which it is asked.
COUNTRY = "[COUNTRY]"
PLACEHOLDER = re.compile(r"\[(?:[A-Z][A-Z _']+|(?i:country))\]")

MOST_OPTIONS = 99  # as many as prompts have number labels for


@dataclass(frozen=True)
class Threshold:
    """Codes of `at_least` and more are `level`, lower ones the attribute's other level."""

    name: str
    at_least: int | float
    level: str


@dataclass(frozen=True)
class Recode:
    """How a column's codes become the levels of an attribute; `dropped` ones have none.

    Numbers in place of codes in `by` are edges: a level lies from each to the next.
    """

    attribute: Attribute
    column: str
    by: Mapping[Code, str] | Threshold | tuple[float, ...]
    dropped: tuple[Code, ...] = ()

    def levels(self, codes: pd.Series) -> pd.Series:
        """Returns the level (text) of each code, missing where it has none."""
        if isinstance(self.by, Mapping):
            return codes.astype(object).map(dict(self.by))
        edges, levels = self._spans
        edges = (*edges[:-1], np.nextafter(edges[-1], np.inf))  # the last is in
        number = pd.to_numeric(codes, errors="coerce")
        return pd.cut(number, edges, right=False, labels=levels).astype(object)

    def describe(self) -> dict[str, Any]:
        """Returns which codes are which level, as the manifest records it."""
        levels: dict[str, Any] = {level: [] for level in self.attribute.levels}
        if isinstance(self.by, Mapping):
            for code, level in self.by.items():
                levels[level].append(code)
        else:
            edges, names = self._spans
            for level, (low, high) in zip(names, pairwise(edges), strict=True):
                ends = f"< {high:g}" if low == -inf else f">= {low:g}"
                levels[level] = ends if inf in (-low, high) else f"{low:g} to {high:g}"
        return {"column": self.column, "levels": levels, "dropped_codes": list(self.dropped)}

    @property
    def _spans(self) -> tuple[tuple[float, ...], tuple[str, ...]]:
        """The edges between the levels of numbers, ascending, and these levels."""
        if isinstance(self.by, Threshold):
            others = [level for level in self.attribute.levels if level != self.by.level]
            return (-inf, float(self.by.at_least), inf), (*others, self.by.level)
        return tuple(map(float, self.by)), self.attribute.levels


@dataclass(frozen=True)
class Question:
    """A question and its options in order; `question_id` is also its column in the answers.

    Codes that are `dropped` count as no answer. Of each pair in `merged`, the first code counts as
    the second. `written` are the options' codes in the answers, where some are texts. Raises
    InputError unless there are 2 to 99 options, each with its own code.
    """

    source: str
    question_id: str
    topic: str
    text: str
    option_codes: tuple[int, ...]
    option_labels: tuple[str, ...]
    ordinal: bool
    paper: bool = True
    dropped: tuple[Code, ...] = ()
    merged: tuple[tuple[Code, Code], ...] = ()
    written: tuple[Code, ...] = ()

    def __post_init__(self) -> None:
        codes, labels = self.file_codes, self.option_labels
        is_sound = len(labels) == len(codes) == len({*map(spelling, codes)})
        if not is_sound or not 2 <= len(codes) <= MOST_OPTIONS:
            raise InputError(
                f"question {self.question_id} has the option codes {codes!s:.40} and labels "
                f"{labels!s:.40}; give it at least two codes, all different, at most "
                f"{MOST_OPTIONS}, and a label for each"
            )

    @property
    def file_codes(self) -> tuple[Code, ...]:
        """The options' codes as the files have them."""
        return self.written or self.option_codes

    @property
    def answers(self) -> dict[Code, int]:
        """The option (its code in `option_codes`) that each code of the answers stands for."""
        options = dict(zip(self.file_codes, self.option_codes, strict=True))
        return options | {code: options[of] for code, of in self.merged if of in options}


@dataclass(frozen=True)
class Form:
    """How files spell what they hold; None: as the file says or its content shows."""

    encoding: str | None = None
    delimiter: str | None = None
    decimal: str = "."
    sheet: str | None = None


def spelt(key: str, example: str) -> str:
    """Returns, for a message, where a user gives a field of `Form`."""
    return f'{key} = "{example}" in the codebook (for a draft of one: --form {key}={example})'


@dataclass(frozen=True)
class Codebook:
    """All that is known of a survey before its answers are read.

    One of `country` (alpha-3, for all respondents) and `country_column` is set. The codes of
    `missing` are dropped from every column. `labels` maps each column to codes and the labels that
    files give them; a code that is a text labels itself. `id_column` holds respondents' ids.
    `languages` are as `Dataset.manifest` has them.
    """

    source: str
    citation: str
    country: str | None
    country_column: str | None
    recodes: tuple[Recode, ...]
    questions: tuple[Question, ...]
    missing: tuple[Code, ...] = ()
    labels: Mapping[str, tuple[tuple[Code, str], ...]] = field(default_factory=dict)
    countries: tuple[str, ...] = ()
    id_column: str | None = None
    form: Form = Form()
    languages: Mapping[str, Any] = field(default_factory=dict)

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The survey's attributes, in the codebook's order."""
        return tuple(recode.attribute for recode in self.recodes)


def with_rules(codebook: Codebook, rules: Mapping[str, float | None]) -> Codebook:
    """Returns the codebook with thresholds moved, `{"education.college": 4}`.

    None takes an attribute out: `{"education": None}`. Raises InputError for a rule that the
    codebook does not have, or that is no finite number, and if no attribute is left.
    """
    recodes = {recode.attribute.name: recode for recode in codebook.recodes}
    cuts = {
        f"{name}.{recode.by.name}": (name, recode.by)
        for name, recode in recodes.items()
        if isinstance(recode.by, Threshold)
    }
    for name, at_least in sorted(rules.items()):
        if name not in (recodes if at_least is None else cuts):
            raise InputError(
                f"--rule {name}: {codebook.source} has no such rule; "
                f"it has {', '.join(sorted(cuts)) or 'none'}, and ATTRIBUTE=none of "
                f"{', '.join(recodes)}"
            )
        if at_least is None:
            continue
        if not isfinite(at_least):
            raise InputError(f"--rule {name}: {at_least} is no code; give a number")
        of, by = cuts[name]
        recodes[of] = replace(recodes[of], by=replace(by, at_least=at_least))
    kept = tuple(recode for name, recode in recodes.items() if name not in rules)
    if not kept:
        raise InputError("--rule takes every attribute out; leave one in")
    return replace(codebook, recodes=kept)


def describe(codebook: Codebook) -> dict[str, Any]:
    """Returns the rules that turn codes into levels and answers, as the manifest records them."""
    questions = codebook.questions
    rules: dict[str, Any] = {
        "attributes": {recode.attribute.name: recode.describe() for recode in codebook.recodes},
        "dropped_codes": {q.question_id: list(q.dropped) for q in questions if q.dropped},
        "missing_codes": list(codebook.missing),
        "merged_codes": {q.question_id: [*map(list, q.merged)] for q in questions if q.merged},
        "written_codes": {q.question_id: list(q.written) for q in questions if q.written},
    }
    return {name: rule for name, rule in rules.items() if rule}
