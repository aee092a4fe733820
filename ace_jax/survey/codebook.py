"""A survey's codebook: how columns and codes become attributes, levels and ordered options.

The file is TOML (`builtin/gss2018.toml` is one to copy from):

    source = "my_survey"             # names the survey in every cell
    citation = "Who made it, when."  # copied into the manifest
    country = "USA"                  # ISO 3166-1 alpha-3; or
    country_column = "B_COUNTRY"     # the column that holds it

    # What follows up to the attributes may be left out.
    countries = ["CHL", "MEX"]       # those prepared unless others are asked for
    id = "respondent"                # a column in which a respondent's id stands: twice is flagged
    encoding = "cp1252"              # of texts in the files; UTF-8, or what a .sav or .dta says
    delimiter = ";"                  # of a CSV file; else the one under which the columns are there
    decimal = ","                    # of a CSV file; "."
    sheet = "answers"                # of a spreadsheet; else the one that has the columns
    include = ["q1*", "trust"]       # the questions that are taken, and those that are not:
    exclude = ["*_text"]             # names, or patterns of names
    # Codes that count as no answer, or as no level, in every column, each with the label that
    # files give it; a code may be there several times.
    missing = [[-1, "Don't know"], [-2, "No answer"]]

    [[attributes]]                   # in the order in which a prompt names them
    name = "gender"
    column = "sex"
    levels = ["Male", "Female"]      # the first is the reference (A=0), the second A=1
    codes = [[1], ["f", "w"]]        # the column's codes (numbers or text) of each level; a text
                                     # in place of a list is a range: codes = ["1-3", "4-9"]
    dropped = [-1, -2]               # codes that count as missing; may be left out
    # The codes' labels in files that have labels in their cells; may be left out.
    labels = [[1, "Male"], ["f", "Female"], ["f", "Woman"]]

    [[attributes]]
    name = "education"
    column = "degree"
    levels = ["College Educated", "Not College Educated"]
    # In place of `codes`, with two levels: codes of 3 and more are "College Educated", lower ones
    # the other level. `--rule education.college=4` moves the cut.
    threshold = { name = "college", at_least = 3, level = "College Educated" }

    [[attributes]]
    name = "age"
    column = "years"
    levels = ["Young", "Middle-aged", "Old"]
    bins = [18, 30, 60, 100]         # in place of `codes`: 18 to below 30, to below 60, to 100

    [scales]                         # options that several questions share; may be left out
    agreement = [[1, "Disagree"], [2, "Agree"]]

    [[questions]]
    column = "q1"                    # also the question's id
    topic = "Work"
    text = "Is work important to you?"
    options = [[1, "No"], [2, "A little"], [3, "Very"]]  # code and label, in order; or a scale
    reverse = true                   # the order is the other way round; false if left out
    ordinal = true                   # false for yes/no and unordered options; true if left out
    dropped = [-1, 9]                # codes that count as no answer; may be left out
    merged = [[0, 1]]                # code 0 counts as code 1; may be left out
    labels = [[9, "Can't choose"]]   # as of attributes, beside the options' own; may be left out
    paper = false                    # not one of the paper's questions; true if left out

The code "" is a blank cell. Codes are numbers or texts (`codes`); options with a text for a code
are numbered 1..K.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from itertools import chain, pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ace_jax.errors import InputError, check_known
from ace_jax.files import reason
from ace_jax.survey.codebook_keys import RANGE, check_keys
from ace_jax.survey.codes import Code, plain, spelling
from ace_jax.survey.personas import Attribute, country_names

BUILTIN = Path(__file__).parent / "builtin"

# Stands in a question's text for the name of the country in which it is asked.
COUNTRY = "[COUNTRY]"
PLACEHOLDER = re.compile(r"\[(?:[A-Z][A-Z _']+|(?i:country))\]")

MOST_OPTIONS = 99  # as many as prompts have number labels for
LONGEST_RANGE = 1000  # codes


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
        number = pd.to_numeric(codes, errors="coerce")
        if isinstance(self.by, Threshold):
            named = np.where(number >= self.by.at_least, self.by.level, self._other)
            return pd.Series(named, index=codes.index).where(number.notna())
        edges = [*self.by[:-1], np.nextafter(self.by[-1], np.inf)]  # the last is in
        return pd.cut(number, edges, right=False, labels=self.attribute.levels).astype(object)

    def describe(self) -> dict[str, Any]:
        """Returns which codes are which level, as the manifest records it."""
        levels: dict[str, Any]
        if isinstance(self.by, Threshold):
            cut = f"{self.by.at_least:g}"
            levels = {self.by.level: f">= {cut}", self._other: f"< {cut}"}
        elif isinstance(self.by, tuple):
            ends = (f"{low:g} to {high:g}" for low, high in pairwise(self.by))
            levels = dict(zip(self.attribute.levels, ends, strict=True))
        else:
            levels = {level: [] for level in self.attribute.levels}
            for code, level in self.by.items():
                levels[level].append(code)
        return {"column": self.column, "levels": levels, "dropped_codes": list(self.dropped)}

    @property
    def _other(self) -> str:
        first, second = self.attribute.levels
        return second if isinstance(self.by, Threshold) and self.by.level == first else first


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
        codes, labels = self.option_codes, self.option_labels
        is_sound = len(labels) == len(codes) == len({*codes})
        if not is_sound or not 2 <= len(codes) <= MOST_OPTIONS:
            raise InputError(
                f"question {self.question_id} has the option codes {codes!s:.40} and labels "
                f"{labels!s:.40}; give it at least two codes, all different, at most "
                f"{MOST_OPTIONS}, and a label for each"
            )

    @property
    def answers(self) -> dict[Code, int]:
        """The option (its code in `option_codes`) that each code of the answers stands for."""
        options = dict(zip(self.written or self.option_codes, self.option_codes, strict=True))
        return options | {code: options[of] for code, of in self.merged if of in options}


@dataclass(frozen=True)
class Form:
    """How files spell what they hold; None: as the file says or its content shows."""

    encoding: str | None = None
    delimiter: str | None = None
    decimal: str = "."
    sheet: str | None = None


@dataclass(frozen=True)
class Codebook:
    """All that is known of a survey before its answers are read.

    One of `country` (alpha-3, for all respondents) and `country_column` is set. The codes of
    `missing` are dropped from every column. `labels` maps each column to codes and the labels that
    files give them; a code that is a text labels itself. `id_column` holds respondents' ids.
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

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The survey's attributes, in the codebook's order."""
        return tuple(recode.attribute for recode in self.recodes)


def read_codebook(path: Path) -> Codebook:
    """Reads and checks a codebook (format: this module's docstring).

    Raises InputError for a file that cannot be read, is not TOML or breaks the format.
    """
    try:
        return _codebook(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot read the codebook {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of UTF-8, TOML, or a number of 5,000 digits
        raise InputError(f"codebook {path} is not TOML: {reason(error)}; correct it") from None
    except InputError as error:
        raise InputError(f"codebook {path}: {error}") from None


def with_rules(codebook: Codebook, rules: Mapping[str, float | None]) -> Codebook:
    """Returns the codebook with thresholds moved, `{"education.college": 4}`.

    None takes an attribute out: `{"education": None}`. Raises InputError for a rule that the
    codebook does not have, or that is no finite number, and if no attribute is left.
    """
    cuts = {
        f"{recode.attribute.name}.{recode.by.name}": (recode, recode.by)
        for recode in codebook.recodes
        if isinstance(recode.by, Threshold)
    }
    recodes = {recode.attribute.name: recode for recode in codebook.recodes}
    known = {name: name in cuts for name in (*cuts, *recodes)}
    for name, at_least in sorted(rules.items()):
        if known.get(name) is not (at_least is not None):
            raise InputError(
                f"--rule {name}: {codebook.source} has no such rule; "
                f"it has {', '.join(sorted(cuts)) or 'none'}, and ATTRIBUTE=none of "
                f"{', '.join(recodes)}"
            )
        if at_least is None:
            continue
        if not isfinite(at_least):
            raise InputError(f"--rule {name}: {at_least} is no code; give a number")
        recode, by = cuts[name]
        recodes[recode.attribute.name] = replace(recode, by=replace(by, at_least=at_least))
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


def _codebook(content: dict[str, Any]) -> Codebook:
    optional = "country country_column countries missing scales include exclude id"
    optional += " encoding delimiter decimal sheet"
    check_keys(content, "the file", "source citation attributes questions", optional)
    if ("country" in content) == ("country_column" in content):
        raise InputError("give either `country` or `country_column`")
    for country in (*content.get("countries", ()), content.get("country")):
        if country is not None:
            check_known(country, country_names(), "country")
    missing = _pairs(content.get("missing", []))
    nowhere = tuple(dict.fromkeys(code for code, _ in missing))
    recodes = tuple(_recode(entry, nowhere) for entry in content["attributes"])
    entries = _chosen(content)
    questions = tuple(_question(entry, content, nowhere) for entry in entries)
    names = [recode.attribute.name for recode in recodes]
    names += [question.question_id for question in questions]
    if repeated := _repeated(["country", "weight", *names]):
        raise InputError(
            f"the name {repeated[0]} is used twice, or reserved for a column of the cells; "
            "rename the attribute or the question's column"
        )
    labels: dict[str, tuple[tuple[Code, str], ...]] = {}
    for question in questions:
        options = zip(
            question.written or question.option_codes, question.option_labels, strict=True
        )
        labels[question.question_id] = tuple(options)
    for entry in (*content["attributes"], *entries):
        column, own = entry["column"], _pairs(entry.get("labels", []))
        its = [*entry.get("codes", []), *entry.get("merged", []), entry.get("dropped", [])]
        lists = (one for one in its if isinstance(one, list))
        texts = ((code, code) for code in chain(*lists) if isinstance(code, str))
        # A column may serve several attributes.
        labels[column] = (*labels.get(column, ()), *own, *texts, *missing)
    form = {field.name: content[field.name] for field in fields(Form) if field.name in content}
    return Codebook(
        source=content["source"],
        citation=content["citation"],
        country=content.get("country"),
        country_column=content.get("country_column"),
        recodes=recodes,
        questions=questions,
        missing=nowhere,
        labels=labels,
        countries=tuple(content.get("countries", ())),
        id_column=content.get("id"),
        form=Form(**form),
    )


def _pairs(labelled: list[Any]) -> tuple[tuple[Code, str], ...]:
    return tuple((code if isinstance(code, str) else int(code), label) for code, label in labelled)


def _chosen(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the questions that `include` and `exclude` leave."""
    columns = [str(entry.get("column")) for entry in content["questions"]]

    def named(key: str, default: list[str]) -> set[str]:
        patterns = content.get(key, default)
        its = {one: [name for name in columns if fnmatchcase(name, one)] for one in patterns}
        if idle := [one for one in its if not its[one]]:
            raise InputError(f"`{key}`: no question is called {idle[0]!r:.40}; correct it")
        return {*chain(*its.values())}

    kept = named("include", ["*"]) - named("exclude", [])
    if not kept:
        raise InputError("`include` and `exclude` leave no question; change them")
    return [
        entry for entry, name in zip(content["questions"], columns, strict=True) if name in kept
    ]


def _recode(entry: dict[str, Any], missing: tuple[Code, ...]) -> Recode:
    where = f"attribute {entry.get('name')}"
    check_keys(entry, where, "name column levels", "codes threshold bins dropped labels")
    levels = tuple(entry["levels"])
    if len(levels) < 2 or _repeated(map(plain, levels)):
        raise InputError(f"{where} has levels {levels}; give it at least two different ones")
    if sum(key in entry for key in ("codes", "threshold", "bins")) != 1:
        raise InputError(f"{where}: give either `codes` or `threshold` or `bins`")
    _check_texts(where, levels)
    dropped = tuple(entry.get("dropped", ()))
    of = (Attribute(entry["name"], levels), entry["column"])
    if "threshold" in entry:
        check_keys(entry["threshold"], f"{where}, threshold", "name at_least level")
        threshold = Threshold(**entry["threshold"])
        if len(levels) != 2 or threshold.level not in levels:
            raise InputError(f"{where}: a threshold needs two levels and the name of one of them")
        return Recode(*of, threshold, dropped)
    if "bins" in entry:
        edges = tuple(map(float, entry["bins"]))
        if len(edges) != len(levels) + 1 or any(low >= high for low, high in pairwise(edges)):
            raise InputError(
                f"{where}: `bins` is {entry['bins']!r:.40}; give ascending numbers, one more than "
                "there are levels"
            )
        return Recode(*of, edges, dropped)
    codes = [_range(its, where) if isinstance(its, str) else its for its in entry["codes"]]
    if len(codes) != len(levels) or _repeated(map(spelling, chain(*codes))):
        raise InputError(
            f"{where} has the levels {levels} and `codes` {codes!r:.40}; give each level its "
            "own list, and a code to one level only"
        )
    by = {code: level for level, its in zip(levels, codes, strict=True) for code in its}
    _check_not_dropped(by, (*dropped, *missing), where)
    return Recode(*of, by, dropped)


def _range(text: str, where: str) -> list[int]:
    first, last = map(int, RANGE.fullmatch(text).groups())  # type: ignore[union-attr]
    if not 0 <= last - first < LONGEST_RANGE:
        raise InputError(f"{where}: `codes` has the range {text!r}; give up to 1000, or `bins`")
    return [*range(first, last + 1)]


def _question(
    entry: dict[str, Any], content: dict[str, Any], missing: tuple[Code, ...]
) -> Question:
    where = f"question {entry.get('column')}"
    optional = "ordinal dropped merged labels paper reverse"
    check_keys(entry, where, "column topic text options", optional)
    options = entry["options"]
    if isinstance(options, str):
        if options not in content.get("scales", {}):
            raise InputError(f"{where} uses the scale {options!r}, which [scales] does not have")
        options = content["scales"][options]
    labelled = _pairs(options[:: -1 if entry.get("reverse") else 1])
    codes, labels = tuple(code for code, _ in labelled), tuple(label for _, label in labelled)
    numbers = tuple(code for code in codes if isinstance(code, int))
    dropped, merged = tuple(entry.get("dropped", ())), tuple(map(tuple, entry.get("merged", ())))
    if repeated := _repeated(map(plain, labels)):
        raise InputError(f"{where} has two options {repeated[0]!r:.40}; tell them apart")
    if repeated := _repeated(map(spelling, codes)):
        raise InputError(
            f"{where} has the option code {repeated[0]!r:.40} twice; give it at least two codes, "
            "all different"
        )
    _check_texts(where, (entry["text"], *labels))
    _check_not_dropped(codes, (*dropped, *missing, *(code for code, _ in merged)), where)
    if strange := [of for _, of in merged if of not in codes]:
        raise InputError(f"{where}: `merged` names {strange[0]!r:.40}, which is no option")
    is_written = numbers != codes
    return Question(
        source=content["source"],
        question_id=entry["column"],
        topic=entry["topic"],
        text=entry["text"],
        option_codes=tuple(range(1, len(codes) + 1)) if is_written else numbers,
        option_labels=labels,
        ordinal=entry.get("ordinal", True),
        paper=entry.get("paper", True),
        dropped=dropped,
        merged=merged,
        written=codes if is_written else (),
    )


def _check_texts(where: str, texts: Iterable[str]) -> None:
    for found in chain(*map(PLACEHOLDER.findall, texts)):
        if found != COUNTRY:
            raise InputError(f"{where}: {found} is no placeholder; write {COUNTRY}, or the words")


def _check_not_dropped(codes: Iterable[Code], dropped: Iterable[Code], where: str) -> None:
    out = {*map(spelling, dropped)}
    if both := [code for code in codes if spelling(code) in out]:
        raise InputError(
            f"{where}: the code {both[0]!r:.40} counts, and is also in `dropped`, `missing` or "
            "`merged`; take it out of one"
        )


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
