"""Questions made from the labels of a statistics file: texts, options, and missing codes.

A code is no answer where the file says so, by a range of missing values or by a label such as
"Can't choose", or where it is below 0. No other code is: 8 and 9 are answers from 0 to 10.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ace_jax.survey.codebook import COUNTRY
from ace_jax.survey.codes import Code, spaced, spelling

# More are numbers (hours, ages) or lists; the longest scales run from 0 to 10.
LONGEST_SCALE = 11

NO_ANSWER = re.compile(
    r"((?i:no answer|(can'?t|cannot) (choose|say)|(don'?t|do not) know|refus(ed?|al)|missing"
    r"|not (applicable|available|asked|answered)|inap(plicable)?|does(n'?t| not) apply|dk)"
    r"|N[./]?A\.?[PV]?)(?![A-Za-z])"
)
# An option beside the scale: neither more nor less than the others.
BESIDE = re.compile(r"(none of|other|others|another|something else)\b", re.IGNORECASE)

QUESTION_NUMBER = re.compile(r"^Q\d+\w*[.:)]?\s+(?=\S)", re.IGNORECASE)
_OWN = r"(?:(?:r|respondent|your|own|this|the)(?:'?s)?\s+)?"
NATION = re.compile(rf"[\[<(]\s*{_OWN}(?:country'?s? )?nationality\s*[\]>)]", re.IGNORECASE)
NATIONAL = re.compile(NATION.pattern + r"(?= \w)", re.IGNORECASE)
NAMED = re.compile(rf"[\[<(]\s*{_OWN}country(?: name)?\s*[\]>)]|\bR'?s country\b", re.IGNORECASE)


class NotAQuestionError(ValueError):
    """Why a column is not taken as a question."""


@dataclass(frozen=True)
class Options:
    """A question's codes with their labels, in order, and the codes found that are no answer.

    `unsure` is what the file does not tell.
    """

    options: tuple[tuple[Code, str], ...]
    ordinal: bool
    dropped: tuple[Code, ...]
    unsure: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column of a file: its values, and what the file says of it."""

    name: str
    values: pd.Series
    text: str | None = None
    labels: Mapping[Code, str] = field(default_factory=dict)
    ranges: Sequence[Mapping[str, Any]] = ()

    def label(self, code: Code) -> str:
        """Returns a value's label without the code that it may repeat ("1. Agree" is "Agree")."""
        number = re.escape(spelling(code))
        text = spaced(str(self.labels.get(code, "")))
        return re.sub(rf"^{number}\s*[.:)](?:\s+|(?=\D))(?=\S)", "", text)

    def is_declared_missing(self, code: int | float) -> bool:
        """Whether the file's ranges of missing values have a code."""
        ranges = (one for one in self.ranges if not isinstance(one["lo"], str))
        return any(one["lo"] <= code <= one["hi"] for one in ranges)

    def is_missing(self, code: int | float) -> bool:
        """Whether a code is no answer, by the rule at the top of this module."""
        return code < 0 or self.is_declared_missing(code) or is_no_answer(self.label(code))

    @property
    def answers(self) -> dict[float, str]:
        """The labels of the codes that are answers."""
        numbers = [code for code in self.labels if not isinstance(code, str)]
        return {float(code): self.label(code) for code in numbers if not self.is_missing(code)}


def is_no_answer(label: str) -> bool:
    """Whether a label says that there is no answer."""
    return NO_ANSWER.match(label.lstrip("([")) is not None


def question_text(label: str | None) -> str:
    """Returns a variable's label as a question: without its number, with `[COUNTRY]`.

    `[COUNTRY]` stands for every spelling of the country's name, such as "<R's COUNTRY>". A
    nationality becomes "[COUNTRY]'s" before a word and "of [COUNTRY]" elsewhere. Raises
    NotAQuestionError where nothing is left.
    """
    text = with_country(QUESTION_NUMBER.sub("", spaced(label or "")))
    if not text:
        raise NotAQuestionError("no text")
    return text


def with_country(text: str) -> str:
    """Returns a text with `[COUNTRY]` in place of every spelling of the country's name."""
    text = NATIONAL.sub(f"{COUNTRY}'s", text)
    return NAMED.sub(COUNTRY, NATION.sub(f"of {COUNTRY}", text))


def options_of(column: Column) -> Options:
    """Returns the options of a column of codes (float).

    They are the labelled codes that are answers, in code order. Where an answer in between has no
    label, as on a scale from 0 to 10 with labels at its ends, every whole number in between is an
    option, its label the number. The options count as ordered but for two of them (yes or no),
    and where one stands beside the scale ("None of these").

    Raises NotAQuestionError for fewer than two labelled options or more than 11 in all, answers
    beyond the labelled ones or in fractions, or no answer at all.
    """
    named = column.answers
    if len(named) < 2:
        raise NotAQuestionError("fewer than two labelled options")
    found = [float(code) for code in column.values.dropna().unique()]
    given = {code for code in found if not column.is_missing(code)}
    if not given:
        raise NotAQuestionError("no answers")
    first, last = int(min(named)), int(max(named))
    codes = sorted(named)
    if unlabelled := given - set(named):
        if not all(code.is_integer() and first < code < last for code in unlabelled):
            raise NotAQuestionError("answers without a label")
        # No more than are too many: labels of a damaged file can lie anywhere.
        codes = [float(code) for code in range(first, min(last, first + LONGEST_SCALE) + 1)]
    if len(codes) > LONGEST_SCALE:
        raise NotAQuestionError(f"more than {LONGEST_SCALE} options")
    options = [(int(code), with_country(named.get(code) or f"{code:g}")) for code in codes]
    is_ordinal = len(codes) > 2 and not any(BESIDE.match(label) for _, label in options)
    dropped = tuple(map(int, sorted(set(found) - given)))
    return Options(tuple(options), is_ordinal, dropped)
