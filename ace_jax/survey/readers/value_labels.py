"""Questions made from the labels of a statistics file: texts, options, and missing codes.

A code is no answer where the file says so, by a range of missing values or by a label such as
"Can't choose", or where it is below 0. No other code is: 8 and 9 are answers from 0 to 10.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from ace_jax.survey.codebook import COUNTRY
from ace_jax.survey.codes import Code, spaced

# More are numbers (hours, ages) or lists; the longest scales run from 0 to 10.
LONGEST_SCALE = 11

Labels = Mapping[Code, str]
Ranges = Sequence[Mapping[str, Any]]

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


class Options(NamedTuple):
    """A question's options in code order, and the codes among the answers that are none."""

    codes: tuple[int, ...]
    labels: tuple[str, ...]
    ordinal: bool
    dropped: tuple[int, ...]


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


def option_label(code: Code, label: str) -> str:
    """Returns a value's label without the code that it may repeat ("1. Agree" is "Agree")."""
    number = re.escape(f"{code:g}" if isinstance(code, float) else str(code))
    return re.sub(rf"^{number}\s*[.:)](?:\s+|(?=\D))(?=\S)", "", spaced(label))


def is_missing(code: int | float, labels: Labels, ranges: Ranges) -> bool:
    """Whether a code is no answer, by the rule at the top of this module."""
    if code < 0 or any(one["lo"] <= code <= one["hi"] for one in ranges):
        return True
    label = option_label(code, labels.get(code, ""))
    return NO_ANSWER.match(label.lstrip("([")) is not None


def options_of(answers: pd.Series, labels: Labels, ranges: Ranges) -> Options:
    """Returns the options of a column of codes (float).

    They are the labelled codes that are answers, in code order. Where an answer in between has no
    label, as on a scale from 0 to 10 with labels at its ends, every whole number in between is an
    option, its label the number. The options count as ordered but for two of them (yes or no),
    and where one stands beside the scale ("None of these").

    Raises NotAQuestionError for fewer than two labelled options or more than 11 in all, answers
    beyond the labelled ones or in fractions, or no answer at all.
    """
    named = {
        float(code): option_label(code, label)
        for code, label in labels.items()
        if not isinstance(code, str) and not is_missing(code, labels, ranges)
    }
    if len(named) < 2:
        raise NotAQuestionError("fewer than two labelled options")
    found = [float(code) for code in answers.dropna().unique()]
    given = {code for code in found if not is_missing(code, labels, ranges)}
    if not given:
        raise NotAQuestionError("no answers")
    first, last = int(min(named)), int(max(named))
    codes = sorted(named)
    if unlabelled := given - set(named):
        if not all(code.is_integer() and first < code < last for code in unlabelled):
            raise NotAQuestionError("answers without a label")
        codes = [float(code) for code in range(first, last + 1)]
    if len(codes) > LONGEST_SCALE:
        raise NotAQuestionError(f"more than {LONGEST_SCALE} options")
    texts = tuple(with_country(named.get(code) or f"{code:g}") for code in codes)
    is_ordinal = len(codes) > 2 and not any(map(BESIDE.match, texts))
    dropped = tuple(map(int, sorted(set(found) - given)))
    return Options(tuple(map(int, codes)), texts, is_ordinal, dropped)
