"""What a user should look at after a survey was read: a table of its questions, and flags.

A flag is a line: what was found, where, and what to do. None changes a number.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ace_jax.survey.codebook import COUNTRY, PLACEHOLDER, Codebook, Question, Threshold
from ace_jax.survey.codes import plain, spelling
from ace_jax.survey.personas import Attribute

MOSTLY = 0.5  # of the respondents
BY_CHANCE = 5  # respondents expected: with fewer, nobody may be chance

# What graded labels say, in English: a word and its opposite, and how strong.
POLES = re.compile(
    r"(?P<no>dis(?=agree|approve|satisf|trust)|un(?=likely|happy|important|fair|safe)|dissatisf"
    r"|oppose|against|bad\b|poor\b|worse|low\b)?"
    r"(agree|approve|satisf|trust|likely|happy|important|fair\b|safe\b|favou?r|good\b|better|high\b)?"
)
STRENGTHS = (
    (re.compile(r"\b(neither|neutral)\b"), 0),
    (re.compile(r"\b(strongly|very|completely|fully|totally|extremely|definitely)\b"), 3),
    (re.compile(r"\b(somewhat|rather|fairly|quite|slightly|tend|probably|mostly)\b"), 1),
    (re.compile(r""), 2),
)
NEGATION = re.compile(r"\bnot (at all|very)?")


def question_counts(
    table: pd.DataFrame, respondents: pd.DataFrame, questions: Sequence[Question]
) -> dict[str, dict[str, Any]]:
    """Returns by question_id: `n`, `missing` (respondents by code), `shares` (percent by option).

    Args:
      table: raw codes, a row a respondent.
      respondents: the same, as `cells.from_table` reads them.
      questions: those to count.

    Shares are of respondents, unweighted, by the codes of the file where they are texts.
    """
    counts = {}
    for question in questions:
        name = question.question_id
        answers, raw = respondents[name], table[name]
        given = answers.value_counts().reindex(question.option_codes, fill_value=0)
        none = {spelling(code): int(n) for code, n in raw[answers.isna()].value_counts().items()}
        blank = int(raw.isna().sum())
        counts[name] = {
            "n": int(given.sum()),
            "missing": none | ({"blank": blank} if blank else {}),
            "shares": {
                spelling(code): round(100 * float(n) / max(int(given.sum()), 1), 1)
                for code, n in zip(question.file_codes, given, strict=True)
            },
        }
    return counts


def flags_of(
    table: pd.DataFrame, respondents: pd.DataFrame, codebook: Codebook, weights: str | None
) -> Iterator[str]:
    """Yields the flags of a survey, of one kind after the other.

    Args:
      table: raw codes, a row a respondent; `attrs["flags"]` are those of its reader.
      respondents: the same, as `cells.from_table` reads them.
      codebook: that of both.
      weights: the column of weights, or None.
    """
    yield from table.attrs.get("flags", ())
    respondents = respondents.astype({"country": "category"})  # grouped faster
    if weights and (n := int(respondents["weight"].isna().sum())):
        yield (
            f"{weights}: {n} respondents have no positive weight and are left out; see that this "
            "is what the weights are meant to do"
        )
    if codebook.id_column in table:
        again = table[[codebook.id_column]].assign(country=respondents["country"]).duplicated()
        if n := int(again.sum()):
            yield f"{codebook.id_column}: {n} respondents have the id of another; give each once"
    for recode in codebook.recodes:
        yield from _of_attribute(recode.attribute, respondents)
        raw, by = table[recode.column], recode.by
        if isinstance(by, Threshold):
            low = raw[pd.to_numeric(raw, errors="coerce") < 0]
            low = low[~low.isin((*recode.dropped, *codebook.missing))]
            if len(low):
                yield (
                    f"{recode.attribute.name}: the code {spelling(low.iloc[0])} ({len(low)} "
                    "respondents) counts as a low one; if it is none, list it in `dropped`"
                )
        elif isinstance(by, Mapping) and (idle := [c for c in by if not raw.isin([c]).any()]):
            yield (
                f"{recode.attribute.name}: nobody has the code {idle[0]!r} of {recode.column}; see "
                "that the file spells it so"
            )
    for question in codebook.questions:
        yield from _of_question(question, respondents)
    yield from _of_topics(codebook.questions)
    yield from _same_answers(respondents, codebook.questions)


def _of_attribute(attribute: Attribute, respondents: pd.DataFrame) -> Iterator[str]:
    found = respondents[attribute.name].value_counts()
    none = [level for level in attribute.levels if not found.get(level, 0)]
    if len(none) == len(attribute.levels) - 1:
        yield (
            f"{attribute.name}: all have the same level, {found.idxmax()}, so that nothing can be "
            "compared; take the attribute out, or correct its codes"
        )
    elif none:
        yield f"{attribute.name}: nobody is {none[0]}; take the level out, or correct its codes"


def _of_question(question: Question, respondents: pd.DataFrame) -> Iterator[str]:
    name, labels = question.question_id, question.option_labels
    answers = respondents[name]
    by_country = answers.groupby(respondents["country"], observed=True)
    counts = by_country.value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=question.option_codes, fill_value=0)
    total, n = counts.sum(), int(counts.to_numpy().sum())
    chosen = [label for label, one in zip(labels, total, strict=True) if one]
    if n == 0:
        yield f"{name}: nobody answered; take the question out, or correct its codes"
    elif len(chosen) == 1 and n < MOSTLY * len(answers):
        yield (
            f"{name}: all {n} who answered chose {chosen[0]!r}, and {len(answers) - n} are "
            'missing; if a blank cell means not mentioned, declare it: merged = [["", CODE]]'
        )
    elif none := [label for label, one in zip(labels, total, strict=True) if not one]:
        yield f"{name}: nobody chose {none[0]!r}; see that its code is the file's, or take it out"
    for code, label in zip(question.option_codes, labels, strict=True):
        having = counts.index[counts[code] > 0]
        if len(having) != 1 or len(counts) == 1:
            continue
        here = counts.loc[having[0]]
        if here[code] / here.sum() * (n - here.sum()) >= BY_CHANCE:
            yield (
                f"{name}: only {having[0]} has the answer {label!r} ({here[code]} respondents); "
                "if the others were not offered it, list its code in `dropped`"
            )
    if len({*map(plain, labels)}) < len(labels):
        yield f"{name}: two options have the same label; tell them apart, or merge them"
    if question.ordinal and (bad := _out_of_order(labels)):
        yield f"{name}: {bad[0]!r} stands before {bad[1]!r}; put the options in order"
    if strange := [one for one in PLACEHOLDER.findall(question.text) if one != COUNTRY]:
        yield f"{name}: {strange[0]} stands in its text and will stay there"


def _of_topics(questions: Sequence[Question]) -> Iterator[str]:
    by_topic: dict[str, dict[tuple[str, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for question in questions:
        if question.ordinal:
            labels = tuple(map(plain, question.option_labels))
            by_topic[question.topic][labels].append(question.question_id)
    for topic, scales in by_topic.items():
        for labels, names in scales.items():
            other = scales.get(labels[::-1], [])
            if other and labels < labels[::-1]:
                yield (
                    f"topic {topic}: the options of {names[0]} and of {other[0]} run opposite ways "
                    f"({len(names)} and {len(other)} questions); turn some by `reverse = true`"
                )


def _same_answers(respondents: pd.DataFrame, questions: Sequence[Question]) -> Iterator[str]:
    by_answers: dict[bytes, list[str]] = defaultdict(list)
    for question in questions:
        answers = respondents[question.question_id]
        if answers.nunique() > 1:
            key = hashlib.sha256(answers.to_numpy().tobytes()).digest()
            by_answers[key].append(question.question_id)
    for first, *others in by_answers.values():
        for other in others:
            yield f"{other}: every respondent answers as to {first}; is it the same column?"


def _out_of_order(labels: Sequence[str]) -> tuple[str, str] | None:
    """Returns the first two neighbours of which the labels' words say another order, or None."""
    graded = [(grade, label) for label in labels if (grade := _grade(label)) is not None]
    steps = np.diff([grade for grade, _ in graded])
    if len(graded) < 3 or (steps >= 0).all() or (steps <= 0).all():
        return None
    way = 1 if graded[-1][0] > graded[0][0] else -1
    place = int(np.argmax(steps * way < 0))
    return graded[place][1], graded[place + 1][1]


def _grade(label: str) -> int | None:
    """Returns how far a label is from neutral: "Strongly disagree" is -3; None: it says nothing."""
    text = plain(label)
    strength = next(grade for word, grade in STRENGTHS if word.search(text))
    pole = next((found for found in POLES.finditer(text) if found.group()), None)
    if pole is None:
        return 0 if strength == 0 else None
    sign = -1 if pole["no"] else 1
    if negated := NEGATION.search(text):
        sign, strength = -sign, {"at all": 3, "very": 1}.get(negated[1] or "", 2)
    return sign * strength
