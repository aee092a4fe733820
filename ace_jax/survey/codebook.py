"""A survey's codebook: how columns and codes become attributes, levels and ordered options.

The file is TOML (`builtin/gss2018.toml` is one to copy from):

    source = "my_survey"             # names the survey in every cell
    citation = "Who made it, when."  # copied into the manifest
    country = "USA"                  # ISO 3166-1 alpha-3; or
    country_column = "B_COUNTRY"     # the column that holds it
    countries = ["CHL", "MEX"]       # those prepared unless others are asked for; may be left out
    # Codes that count as no answer, or as no level, in every column, each with the label that
    # files give it; a code may be there several times; may be left out.
    missing = [[-1, "Don't know"], [-2, "No answer"]]

    [[attributes]]                   # in the order in which a prompt names them
    name = "gender"
    column = "sex"
    levels = ["Male", "Female"]      # the first is the reference (A=0), the second A=1
    codes = [[1], [2]]               # the column's codes (numbers or text) of each level
    dropped = [-1, -2]               # codes that count as missing; may be left out
    # The codes' labels in files that have labels in their cells; may be left out.
    labels = [[1, "Male"], [2, "Female"], [2, "Woman"]]

    [[attributes]]
    name = "education"
    column = "degree"
    levels = ["College Educated", "Not College Educated"]
    # In place of `codes`, with two levels: codes of 3 and more are "College Educated", lower ones
    # the other level. `--rule education.college=4` moves the cut.
    threshold = { name = "college", at_least = 3, level = "College Educated" }

    [scales]                         # options that several questions share; may be left out
    agreement = [[1, "Disagree"], [2, "Agree"]]

    [[questions]]
    column = "q1"                    # also the question's id
    topic = "Work"
    text = "Is work important to you?"
    options = [[1, "No"], [2, "A little"], [3, "Very"]]  # code and label, in order; or a scale
    ordinal = true                   # false for yes/no and unordered options; true if left out
    dropped = [-1, 9]                # codes that count as no answer; may be left out
    merged = [[0, 1]]                # code 0 counts as code 1; may be left out
    labels = [[9, "Can't choose"]]   # as of attributes, beside the options' own; may be left out
    paper = false                    # not one of the paper's questions; true if left out
"""

import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ace_jax.errors import InputError
from ace_jax.files import reason
from ace_jax.survey.personas import Attribute

BUILTIN = Path(__file__).parent / "builtin"

# Columns of the cells, which neither an attribute nor a question may be called.
RESERVED = frozenset(
    ["source", "country", "question_id", "granularity", "n", "effective_n", "p", "weight"]
)

# Stands in a question's text for the name of the country in which it is asked.
COUNTRY = "[COUNTRY]"

Code = int | float | str
LARGEST_CODE = 2**63  # codes are held in 64 bits


@dataclass(frozen=True)
class Threshold:
    """Codes of `at_least` and more are `level`, lower ones the attribute's other level."""

    name: str
    at_least: int | float
    level: str


@dataclass(frozen=True)
class Recode:
    """How a column's codes become the levels of an attribute; `dropped` ones have none."""

    attribute: Attribute
    column: str
    by: Mapping[Code, str] | Threshold
    dropped: tuple[Code, ...] = ()

    def levels(self, codes: pd.Series) -> pd.Series:
        """Returns the level (text) of each code, missing where it has none."""
        if not isinstance(self.by, Threshold):
            return codes.astype(object).map(dict(self.by))
        number = pd.to_numeric(codes, errors="coerce")
        named = np.where(number >= self.by.at_least, self.by.level, self._other)
        return pd.Series(named, index=codes.index).where(number.notna())

    def describe(self) -> dict[str, Any]:
        """Returns which codes are which level, as the manifest records it."""
        levels: dict[str, Any]
        if isinstance(self.by, Threshold):
            cut = f"{self.by.at_least:g}"
            levels = {self.by.level: f">= {cut}", self._other: f"< {cut}"}
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
    the second. Raises InputError unless there are two options or more, each with its own code.
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

    def __post_init__(self) -> None:
        codes, labels = self.option_codes, self.option_labels
        if len(labels) != len(codes) or not 2 <= len(codes) == len({*codes}):
            raise InputError(
                f"question {self.question_id} has the option codes {codes!s:.40} and labels "
                f"{labels!s:.40}; give it at least two codes, all different, and a label for each"
            )


@dataclass(frozen=True)
class Codebook:
    """All that is known of a survey before its answers are read.

    One of `country` (alpha-3, for all respondents) and `country_column` is set. The codes of
    `missing` are dropped from every column. `labels` maps each column to codes and the labels that
    files give them; a code that is a text labels itself.
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
    codebook does not have, and if no attribute is left.
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
        if at_least is not None:
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
    }
    return {name: rule for name, rule in rules.items() if rule}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST_CODE


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _is_labelled(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2 and _is_number(value[0])
    return is_pair and value[0] == int(value[0])


_codes = _list_of(lambda value: isinstance(value, str) or _is_number(value))
_labelled = _list_of(_is_labelled)
_tables = _list_of(lambda value: isinstance(value, dict))
TEXTS = "source citation country country_column name column topic text level"
# What keys hold, wherever in the file they are.
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    key: (kind, fits)
    for keys, kind, fits in (
        (TEXTS, "a text", _is_text),
        ("countries levels", "a list of texts", _list_of(_is_text)),
        ("ordinal paper", "true or false", lambda value: isinstance(value, bool)),
        ("missing labels", 'a list of [code, "label"], the codes whole numbers', _labelled),
        (
            "options",
            'a list of [code, "label"], the codes whole numbers, or the name of a scale',
            lambda value: isinstance(value, str) or _labelled(value),
        ),
        (
            "scales",
            'a table of lists of [code, "label"]',
            lambda value: isinstance(value, dict) and all(map(_labelled, value.values())),
        ),
        ("attributes questions", "one table or more", lambda value: bool(value) and _tables(value)),
        ("codes", "a list of codes for each level", _list_of(_codes)),
        ("dropped", "a list of codes", _codes),
        ("merged", "a list of pairs of codes", _list_of(lambda of: _codes(of) and len(of) == 2)),
        ("threshold", "a table of keys", lambda value: isinstance(value, dict)),
        ("at_least", "a number", _is_number),
    )
    for key in keys.split()
}


def _check_keys(entry: dict[str, Any], where: str, required: str, optional: str = "") -> None:
    known = [*required.split(), *optional.split()]
    if missing := [name for name in required.split() if name not in entry]:
        raise InputError(f"{where} lacks `{missing[0]}`; add it")
    if unknown := sorted(entry.keys() - {*known}):
        raise InputError(
            f"{where} has the unknown key `{unknown[0]:.40}`; known are {', '.join(known)}"
        )
    for name, value in entry.items():
        kind, fits = KINDS[name]
        if not fits(value):
            raise InputError(f"{where}: `{name}` is {value!r:.40}; give {kind}")


def _codebook(content: dict[str, Any]) -> Codebook:
    optional = "country country_column countries missing scales"
    _check_keys(content, "the file", "source citation attributes questions", optional)
    if ("country" in content) == ("country_column" in content):
        raise InputError("give either `country` or `country_column`")
    recodes = tuple(map(_recode, content["attributes"]))
    questions = tuple(_question(entry, content) for entry in content["questions"])
    names = [recode.attribute.name for recode in recodes]
    names += [question.question_id for question in questions]
    if repeated := _repeated([*RESERVED, *names]):
        raise InputError(
            f"the name {repeated[0]} is used twice, or reserved for a column of the cells; "
            "rename the attribute or the question's column"
        )
    missing = _pairs(content.get("missing", []))
    labels: dict[str, tuple[tuple[Code, str], ...]] = {}
    for question in questions:
        options = zip(question.option_codes, question.option_labels, strict=True)
        labels[question.question_id] = tuple(options)
    for entry in (*content["attributes"], *content["questions"]):
        column, own = entry["column"], _pairs(entry.get("labels", []))
        its = [*entry.get("codes", []), *entry.get("merged", []), entry.get("dropped", [])]
        texts = ((code, code) for code in chain(*its) if isinstance(code, str))
        # A column may serve several attributes.
        labels[column] = (*labels.get(column, ()), *own, *texts, *missing)
    return Codebook(
        source=content["source"],
        citation=content["citation"],
        country=content.get("country"),
        country_column=content.get("country_column"),
        recodes=recodes,
        questions=questions,
        missing=tuple(dict.fromkeys(code for code, _ in missing)),
        labels=labels,
        countries=tuple(content.get("countries", ())),
    )


def _pairs(labelled: list[Any]) -> tuple[tuple[int, str], ...]:
    return tuple((int(code), str(label)) for code, label in labelled)


def _recode(entry: dict[str, Any]) -> Recode:
    where = f"attribute {entry.get('name')}"
    _check_keys(entry, where, "name column levels", "codes threshold dropped labels")
    levels = tuple(entry["levels"])
    if len(levels) < 2 or _repeated(levels):
        raise InputError(f"{where} has levels {levels}; give it at least two different ones")
    if ("codes" in entry) == ("threshold" in entry):
        raise InputError(f"{where}: give either `codes` or `threshold`")
    dropped = tuple(entry.get("dropped", ()))
    of = (Attribute(entry["name"], levels), entry["column"])
    if "threshold" in entry:
        _check_keys(entry["threshold"], f"{where}, threshold", "name at_least level")
        threshold = Threshold(**entry["threshold"])
        if len(levels) != 2 or threshold.level not in levels:
            raise InputError(f"{where}: a threshold needs two levels and the name of one of them")
        return Recode(*of, threshold, dropped)
    codes = entry["codes"]
    if len(codes) != len(levels) or _repeated(chain(*codes)):
        raise InputError(
            f"{where} has the levels {levels} and `codes` {codes!r:.40}; give each level its "
            "own list, and a code to one level only"
        )
    by = {code: level for level, its in zip(levels, codes, strict=True) for code in its}
    return Recode(*of, by, dropped)


def _question(entry: dict[str, Any], content: dict[str, Any]) -> Question:
    where = f"question {entry.get('column')}"
    optional = "ordinal dropped merged labels paper"
    _check_keys(entry, where, "column topic text options", optional)
    options = entry["options"]
    if isinstance(options, str):
        if options not in content.get("scales", {}):
            raise InputError(f"{where} uses the scale {options!r}, which [scales] does not have")
        options = content["scales"][options]
    labelled = _pairs(options)
    return Question(
        source=content["source"],
        question_id=entry["column"],
        topic=entry["topic"],
        text=entry["text"],
        option_codes=tuple(code for code, _ in labelled),
        option_labels=tuple(label for _, label in labelled),
        ordinal=entry.get("ordinal", True),
        paper=entry.get("paper", True),
        dropped=tuple(entry.get("dropped", ())),
        merged=tuple((old, new) for old, new in entry.get("merged", ())),
    )


def _repeated(names: Iterable[Code]) -> list[Code]:
    return [name for name, count in Counter(names).items() if count > 1]
