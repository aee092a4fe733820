"""A codebook drafted from a file: what its labels and values say, for the user to correct."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.codebook import COUNTRY
from ace_jax.survey.codebook_file import LARGEST_CODE, form_of
from ace_jax.survey.codes import GAPS, Code, plain
from ace_jax.survey.demographics import DEMOGRAPHICS
from ace_jax.survey.personas import RESERVED, country_of
from ace_jax.survey.readers.tables import read_table
from ace_jax.survey.readers.value_labels import (
    LONGEST_SCALE,
    Column,
    NotAQuestionError,
    Options,
    is_no_answer,
    options_of,
    question_text,
)

MOST_TEXTS = 8
OLDEST = 120
UNKNOWN_COUNTRY = "???"
WEIGHT = re.compile(r".*(weight|wght|wgt|gewicht|pond[eé]r|peso).*|.*_wt|wt", re.IGNORECASE)
NUMBER_FIRST = re.compile(r"(-?\d+)\s*[.:)\-]\s*\S")


class Question(NamedTuple):
    """A question as the template writes it."""

    column: Column
    text: str
    its: Options


@dataclass(frozen=True)
class Attribute:
    """An attribute as the template writes it: a threshold at `cut`, or the codes of each level."""

    name: str
    column: Column
    levels: Sequence[str]
    codes: Sequence[Sequence[Code]] = ()
    cut: int | None = None
    dropped: Sequence[Code] = ()
    unsure: list[str] = field(default_factory=list)


def draft(path: Path, country: str | None = None, form: Mapping[str, str] | None = None) -> str:
    """Returns a codebook (TOML) with a question or an attribute for every column that can be one.

    `country` is the alpha-3 code of all respondents; without it, a column says. `form` are fields
    of `Form`, which the codebook then has. Raises InputError for a file that cannot be read, and
    for one without a question.
    """
    form = dict(form or {})
    found, _ = read_table(path, form=form_of(form, "--form"))
    columns = [
        replace(one, values=_cells(one.values), text=one.text or one.name) for one in found.values()
    ]
    where = _country(columns, country)
    left_out: dict[str, list[str]] = defaultdict(list)
    weights = [one.name for one in columns if WEIGHT.fullmatch(one.name)]
    columns = [one for one in columns if one.name not in {*weights, where["country_column"]}]
    fit: list[Column] = []
    for column in columns:
        if column.name in RESERVED:
            left_out["a name that tables use for something else"].append(column.name)
        elif _largest(column) >= LARGEST_CODE:
            left_out["numbers too large for codes"].append(column.name)
        else:
            fit.append(column)
    attributes = _attributes(fit)
    questions: list[Question] = []
    for column in fit:
        if any(column is one.column for one in attributes):
            continue
        try:
            questions.append(_question(column))
        except NotAQuestionError as error:
            left_out[str(error)].append(column.name)
    if not questions:
        raise InputError(f"{path} has no column that can be a question; write the codebook by hand")
    often = Counter(one.its.options for one in questions)
    shared = [options for options, n in often.items() if n > 1]
    return _template().render(
        file=path.name,
        source=re.sub(r"\W+", "_", path.stem).strip("_") or "survey",
        **where,
        form=form,
        weights=weights,
        missing=_missing(questions, attributes),
        attributes=attributes,
        scales={options: f"scale_{n}" for n, options in enumerate(shared, 1)},
        questions=questions,
        left_out=dict(left_out),
    )


def _cells(values: pd.Series) -> pd.Series:
    """Returns cells without what programs write for none; true and false are texts."""
    if pd.api.types.is_bool_dtype(values):
        return values.astype(str)
    if pd.api.types.is_numeric_dtype(values):
        return values
    return values.mask(values.astype(str).str.strip().isin(GAPS))


def _largest(column: Column) -> float:
    """Returns the largest size of a number among the values and the labelled codes, 0 for none."""
    labelled = [abs(code) for code in column.labels if not isinstance(code, str)]
    numbers = pd.to_numeric(column.values, errors="coerce").dropna().astype(float)
    return float(max([0.0, *labelled, *numbers.abs().nlargest(1)]))


def _country(columns: Sequence[Column], country: str | None) -> dict[str, Any]:
    """Returns what the template writes of the country: all respondents' one, or the column."""
    where = {"country": country or UNKNOWN_COUNTRY, "country_column": None, "country_note": ""}
    if country:
        return where
    for column in columns:
        found = [str(value).strip() for value in column.values.dropna().unique()]
        if not found or not DEMOGRAPHICS["country"].looks_like(column.name, ""):
            continue
        names = [None if value.isdigit() else country_of(value) for value in found]
        if len(found) == 1 and names[0]:
            return where | {"country": names[0], "country_note": f"{column.name} is {found[0]}"}
        if all(names):
            is_code = all(re.fullmatch("[A-Z]{2,3}", value) for value in found)
            note = "UNSURE: its codes must become those of ISO 3166-1 (DEU or DE) in the file"
            note = "" if is_code else note
            return where | {"country_column": column.name, "country_note": note}
    note = "UNSURE: the ISO 3166-1 alpha-3 code of the country, such as DEU; or country_column"
    return where | {"country_note": note}


def _options(column: Column) -> Options:
    """Returns a column's options; raises NotAQuestionError where it has none."""
    values = column.values.dropna()
    numbers = pd.to_numeric(values, errors="coerce")
    if values.empty:
        raise NotAQuestionError("no answers")
    others = sorted({str(value).strip() for value in values[numbers.isna()]} - {""})
    is_few = values.nunique() <= MOST_TEXTS
    is_answer = not all(map(is_no_answer, others))
    is_text = (is_answer and is_few) or numbers.notna().sum() * 2 < len(values)
    if is_text or isinstance(values.dtype, pd.CategoricalDtype):
        return _texts(values)
    if any(not code.is_integer() for code in column.answers):
        raise NotAQuestionError("codes in fractions")
    if len(column.answers) > 1:
        its = options_of(replace(column, values=numbers.dropna().astype(float)))
        often = Counter(plain(_label(label)) for _, label in its.options)
        # Labels that differ: one that several codes have gets its code.
        pairs = (
            (code, _label(label) + (f" ({code})" if often[plain(_label(label))] > 1 else ""))
            for code, label in its.options
        )
        its = replace(its, options=tuple(pairs))
    else:
        its = _numbers(numbers.dropna(), column)
    if others:
        line = f"{len(others)} texts among numbers count as no answer"
        its = replace(its, dropped=(*its.dropped, *others), unsure=(*its.unsure, line))
    return its


def _numbers(numbers: pd.Series, column: Column) -> Options:
    """Options of numbers without labels: the longest run of whole numbers, if there is one."""
    found = sorted(float(code) for code in numbers.unique())
    # A scale from -2 to 2 has negative codes, one from 1 to 5 none.
    low = 0 if max(found) > -min(found) else min(found)
    left = [
        code
        for code in found
        if code >= low and code not in column.labels and not column.is_declared_missing(code)
    ]
    if any(not code.is_integer() for code in left):
        raise NotAQuestionError("numbers in fractions")
    if len(left) > LONGEST_SCALE + 3:
        raise NotAQuestionError("many different numbers")
    longest = max(np.split(left, np.flatnonzero(np.diff(left) != 1) + 1), key=len)
    codes = [*map(int, longest)]
    if len(codes) < 2:
        codes = [*map(int, left)]
    if not 2 <= len(codes) <= LONGEST_SCALE:
        raise NotAQuestionError("one answer" if len(codes) < 2 else "many different numbers")
    dropped = tuple(int(code) for code in found if code not in codes)
    unsure = ["the file has no labels: write the options', and see that they are in order"]
    if dropped:
        unsure.append(f"{', '.join(map(str, dropped))} may be no answer, or options")
    labels = tuple((code, str(code)) for code in codes)
    return Options(labels, len(codes) > 2, dropped, tuple(unsure))


def _texts(values: pd.Series) -> Options:
    texts = values.astype(str).str.strip()
    found = sorted({*texts})
    dropped = [text for text in found if is_no_answer(text)]
    # Two spellings of a label are one option.
    spellings = {plain(text): text for text in reversed(found) if text not in dropped}
    found = sorted(spellings.values())
    if not 2 <= len(found) <= MOST_TEXTS:
        raise NotAQuestionError("one answer" if len(found) < 2 else f"over {MOST_TEXTS} texts")
    numbered = [NUMBER_FIRST.match(text) for text in found]
    line = "the order of the options is not known: put them in order and take `ordinal` out"
    if isinstance(values.dtype, pd.CategoricalDtype):
        kept = [str(level).strip() for level in values.cat.categories]
        found = [text for text in kept if text in found]
        if values.cat.ordered:
            line = ""
    elif all(numbered):
        found.sort(key=lambda text: int(str(NUMBER_FIRST.match(text)[1])))  # type: ignore[index]
        line = "the numbers in the texts give the order: see that it is right"
    # A text that is a number is read as that code.
    own = {text: int(text) for text in found if re.fullmatch(r"-?\d{1,9}", text)}
    free = iter(code for code in range(1, 2 * MOST_TEXTS + 1) if code not in own.values())
    # A label that the codebook has to spell otherwise needs the text for a code.
    options = tuple(
        (text if _label(text) != text else own[text] if text in own else next(free), _label(text))
        for text in found
    )
    return Options(options, "order of" not in line, tuple(dropped), (line,) if line else ())


def _question(column: Column) -> Question:
    its = _options(column)
    if column.text == column.name:
        line = "the file has no text for it: write what was asked"
        its = replace(its, unsure=(*its.unsure, line))
    return Question(column, _label(question_text(column.text)), its)


def _attributes(columns: Sequence[Column]) -> list[Attribute]:
    """Returns an attribute of each kind that a column is named or labelled after."""
    found: list[Attribute] = []
    attributes = {name: its for name, its in DEMOGRAPHICS.items() if name != "country"}
    for name, known in attributes.items():
        likely = [(known.looks_like(one.name, str(one.text)), one) for one in columns]
        likely = sorted((its for its in likely if its[0]), key=lambda its: -its[0])
        for score, column in likely:
            try:
                attribute = _age(column) if name == "age" else _attribute(name, column)
            except NotAQuestionError:
                continue
            if score == 1 and known.levels and not {*attribute.levels} <= {*known.levels}:
                continue  # its label names the attribute, but asks about it
            if len(likely) > 1:
                others = ", ".join(json.dumps(one.name) for _, one in likely if one is not column)
                attribute.unsure.append(f"other columns that may be meant: {others}")
            if not any(column is one.column for one in found):
                found.append(attribute)
            break
    return found


def _age(column: Column) -> Attribute:
    numbers = pd.to_numeric(column.values, errors="coerce").dropna()
    if numbers.nunique() <= LONGEST_SCALE:
        return _attribute("age", column)
    codes = [float(code) for code in numbers.unique()]
    none = [c for c in codes if c > OLDEST or column.is_missing(c)]
    cut = int(numbers[~numbers.isin(none)].median())
    line = f"two groups, cut at the median; `--rule age.older={cut + 5}` moves the cut"
    levels = (f"Under {cut}", f"{cut} and Older")
    dropped = sorted(map(int, none))
    return Attribute("age", column, levels, cut=cut, dropped=dropped, unsure=[line])


def _attribute(name: str, column: Column) -> Attribute:
    its = _options(column)
    # Texts are their own codes.
    is_text = pd.to_numeric(column.values.dropna(), errors="coerce").isna().all()
    texts = column.values.dropna().astype(str).str.strip().unique()
    codes: dict[str, list[Code]] = {
        label: [one for one in texts if plain(_label(one)) == plain(label)] if is_text else [code]
        for code, label in its.options
    }
    unsure = [line for line in its.unsure if "order" not in line]
    levels, groups = DEMOGRAPHICS[name].levels, dict[str, list[Code]]()
    if levels:
        second = {label for label in codes if DEMOGRAPHICS[name].is_second(label)}
        if name == "gender" and not second and len(codes) == 2:  # 0 and 1, 1 and 2, H and M
            second = {list(codes)[column.name.casefold() != "male"]}
            unsure.append("which code is which is the usual one: see the questionnaire")
        if second and len(second) < len(codes):
            for label, codes_of in codes.items():
                groups.setdefault(levels[label in second], []).extend(codes_of)
            if len(codes) > 2:
                unsure.append("which codes are which level is read from their labels: see them")
    if not groups:
        groups = codes
    if is_text and not groups.keys() & {*levels} and name != "region":
        unsure.append("the order of the levels is not known; the first is the reference")
    ordered = [level for level in levels if level in groups] or list(groups)
    lists = [groups[level] for level in ordered]
    return Attribute(name, column, ordered, lists, None, its.dropped, unsure)


def _label(text: str) -> str:
    """Returns a text in whose brackets only the country stands: nothing else is filled in."""
    return text.replace(COUNTRY, "\0").translate(str.maketrans("[]", "()")).replace("\0", COUNTRY)


def _missing(questions: Sequence[Question], attributes: Sequence[Attribute]) -> dict[int, str]:
    """Returns the codes that are no answer in several columns and an answer in none, labelled."""
    answers: set[Code] = {code for one in questions for code, _ in one.its.options}
    for attribute in attributes:
        answers |= {code for its in attribute.codes for code in its}
        if attribute.cut is not None:
            values = pd.to_numeric(attribute.column.values, errors="coerce").dropna()
            answers |= {float(code) for code in values.unique()} - {*attribute.dropped}
    labels: dict[int, Counter[str]] = defaultdict(Counter)
    used = [(one.column, one.its.dropped) for one in questions]
    for column, dropped in [*used, *((one.column, one.dropped) for one in attributes)]:
        for code in dropped:
            if isinstance(code, int) and code not in answers and column.labels.get(code):
                labels[code][column.label(code)] += 1
    often = {code: its.most_common(1)[0][0] for code, its in labels.items() if its.total() > 1}
    return dict(sorted(often.items()))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    # TOML's texts are those of JSON.
    environment.filters["toml"] = lambda value: json.dumps(value, ensure_ascii=False).replace(
        "\x7f", "\\u007f"
    )
    environment.filters["note"] = lambda text: f" # {text}" if text else ""
    return environment.from_string(Path(__file__).with_name("draft.toml.jinja").read_text("utf-8"))
