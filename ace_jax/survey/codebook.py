"""A survey's codebook: how columns and codes become attributes, levels and ordered options.

The file is TOML (`builtin/gss2018.toml` is one to copy from):

    source = "my_survey"             # names the survey in every cell
    citation = "Who made it, when."  # copied into the manifest
    country = "USA"                  # ISO 3166-1 alpha-3; or
    country_column = "B_COUNTRY"     # the column that holds it
    countries = ["CHL", "MEX"]       # those prepared unless others are asked for; may be left out
    # Codes that count as no answer, or as no level, in every column, each with what files call
    # it; a code may be there several times; may be left out.
    missing = [[-1, "Don't know"], [-2, "No answer"]]

    [[attributes]]                   # in the order in which a prompt names them
    name = "gender"
    column = "sex"
    levels = ["Male", "Female"]      # the first is the reference (A=0), the second A=1
    codes = [[1], [2]]               # the column's codes (numbers or text) of each level
    dropped = [-1, -2]               # codes that count as missing; may be left out
    # What files with labels in their cells call the codes; may be left out.
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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ace_jax.errors import InputError
from ace_jax.survey.codebook_format import Code, check_keys, whole
from ace_jax.survey.personas import Attribute

BUILTIN = Path(__file__).parent / "builtin"

# Columns of the cells, which neither an attribute nor a question may be called.
RESERVED = frozenset(
    ["source", "country", "question_id", "granularity", "n", "effective_n", "p", "weight"]
)

# Stands in a question's text for the name of the country in which it is asked.
COUNTRY = "[COUNTRY]"


@dataclass(frozen=True)
class Threshold:
    """Codes of `at_least` and more are `level`, lower ones the attribute's other level."""

    name: str
    at_least: int | float
    level: str


@dataclass(frozen=True)
class Recode:
    """How a column's codes become the levels of an attribute."""

    attribute: Attribute
    column: str
    by: Mapping[Code, str] | Threshold
    dropped: tuple[Code, ...]


@dataclass(frozen=True)
class Question:
    """A question and its options in order; `question_id` is also its column in the answers."""

    source: str
    question_id: str
    topic: str
    text: str
    option_codes: tuple[int, ...]
    option_labels: tuple[str, ...]
    ordinal: bool
    paper: bool = True

    def __post_init__(self) -> None:
        """Raises InputError unless there are two options or more, each with its own code."""
        name, count = self.question_id, len(self.option_codes)
        if len(self.option_labels) != count:
            raise InputError(
                f"question {name} has {count} option codes and {len(self.option_labels)} labels; "
                "give one label for each code"
            )
        if count < 2:
            has = "one option" if count else "no options"
            raise InputError(f"question {name} has {has}; give it at least two or leave it out")
        if len(set(self.option_codes)) != count:
            raise InputError(
                f"question {name} gives the same code to two options ({self.option_codes}); "
                "give each option its own"
            )


@dataclass(frozen=True)
class Codebook:
    """All that is known of a survey before its answers are read.

    One of `country` (alpha-3, for all respondents) and `country_column` is set.
    `dropped` maps a question's id to the codes that count as no answer, `merged` to the codes that
    count as another one. The codes of `missing` are dropped from every column and stand in each
    `dropped` too. `labels` maps a column to codes and what files call them.
    """

    source: str
    citation: str
    country: str | None
    country_column: str | None
    recodes: tuple[Recode, ...]
    questions: tuple[Question, ...]
    dropped: Mapping[str, tuple[Code, ...]]
    missing: tuple[Code, ...] = ()
    merged: Mapping[str, Mapping[Code, Code]] = field(default_factory=dict)
    labels: Mapping[str, tuple[tuple[Code, str], ...]] = field(default_factory=dict)
    countries: tuple[str, ...] = ()

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The survey's attributes, in the codebook's order."""
        return tuple(recode.attribute for recode in self.recodes)


def read_codebook(path: Path) -> Codebook:
    """Reads and checks a codebook (format: this module's docstring).

    Raises InputError for a file that is not there, is not TOML or breaks the format.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no codebook {path}; give the path of one") from None
    except OSError as error:
        raise InputError(f"cannot read the codebook {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of UTF-8, TOML, or a number of 5,000 digits
        reason = " ".join(str(error).split())
        raise InputError(f"codebook {path} is not TOML: {reason:.200}; correct it there") from None
    try:
        return _codebook(content)
    except InputError as error:
        raise InputError(f"codebook {path}: {error}") from None


def with_rules(codebook: Codebook, rules: Mapping[str, float]) -> Codebook:
    """Returns the codebook with thresholds moved: `{"education.college": 4}`.

    Raises InputError for a rule that the codebook does not have.
    """
    known = {
        f"{recode.attribute.name}.{recode.by.name}"
        for recode in codebook.recodes
        if isinstance(recode.by, Threshold)
    }
    if unknown := sorted(set(rules) - known):
        raise InputError(
            f"--rule {unknown[0]}: {codebook.source} has no such rule; "
            f"it has {', '.join(sorted(known)) or 'none'}"
        )
    return replace(codebook, recodes=tuple(_moved(recode, rules) for recode in codebook.recodes))


def describe(codebook: Codebook) -> dict[str, Any]:
    """Returns the rules that turn codes into levels and answers, as the manifest records them."""
    own = {name: _own(codes, codebook) for name, codes in codebook.dropped.items()}
    rules: dict[str, Any] = {
        "attributes": {
            recode.attribute.name: _described(recode)
            | {"dropped_codes": _own(recode.dropped, codebook)}
            for recode in codebook.recodes
        },
        "dropped_codes": {name: codes for name, codes in own.items() if codes},
    }
    if codebook.missing:
        rules["missing_codes"] = list(codebook.missing)
    if codebook.merged:
        rules["merged_codes"] = {
            name: [list(pair) for pair in of.items()] for name, of in codebook.merged.items()
        }
    return rules


def _own(dropped: tuple[Code, ...], codebook: Codebook) -> list[Code]:
    return [code for code in dropped if code not in codebook.missing]


def _described(recode: Recode) -> dict[str, Any]:
    rule: dict[str, Any]
    if isinstance(recode.by, Threshold):
        other = next(level for level in recode.attribute.levels if level != recode.by.level)
        cut = f"{recode.by.at_least:g}"
        rule = {recode.by.level: f">= {cut}", other: f"< {cut}"}
    else:
        rule = {
            level: [code for code, its in recode.by.items() if its == level]
            for level in recode.attribute.levels
        }
    return {"column": recode.column, "levels": rule}


def _moved(recode: Recode, rules: Mapping[str, float]) -> Recode:
    if not isinstance(recode.by, Threshold):
        return recode
    at_least = rules.get(f"{recode.attribute.name}.{recode.by.name}", recode.by.at_least)
    return replace(recode, by=replace(recode.by, at_least=at_least))


def _codebook(content: dict[str, Any]) -> Codebook:
    check_keys(
        content,
        "the file",
        {"source", "citation", "attributes", "questions"},
        {"country", "country_column", "countries", "missing", "scales"},
    )
    if ("country" in content) == ("country_column" in content):
        raise InputError("give either `country` or `country_column`")
    if not (content["attributes"] and content["questions"]):
        raise InputError("there is no attribute or no question; give at least one of each")
    source, scales = content["source"], content.get("scales", {})
    called = _labelled(content.get("missing", []), "missing")
    missing = tuple(dict.fromkeys(code for code, _ in called))
    recodes = tuple(_recode(entry, missing) for entry in content["attributes"])
    questions = tuple(_question(entry, source, scales) for entry in content["questions"])
    _check_names([r.attribute.name for r in recodes], [q.question_id for q in questions])
    return Codebook(
        source=source,
        citation=content["citation"],
        country=content.get("country"),
        country_column=content.get("country_column"),
        recodes=recodes,
        questions=questions,
        dropped={
            entry["column"]: (*missing, *entry.get("dropped", ()))
            for entry in content["questions"]
            if missing or "dropped" in entry
        },
        missing=missing,
        merged={
            entry["column"]: dict(entry["merged"])
            for entry in content["questions"]
            if "merged" in entry
        },
        labels={
            entry["column"]: (
                *_labelled(_options(entry, scales), entry["column"]),
                *_labelled(entry.get("labels", []), entry["column"]),
                *called,
            )
            for entry in [*content["attributes"], *content["questions"]]
        },
        countries=tuple(content.get("countries", ())),
    )


def _recode(entry: dict[str, Any], missing: tuple[Code, ...]) -> Recode:
    where = f"attribute {entry.get('name')}"
    optional = {"codes", "threshold", "dropped", "labels"}
    check_keys(entry, where, {"name", "column", "levels"}, optional)
    levels = tuple(entry["levels"])
    if len(levels) < 2 or len(set(levels)) < len(levels):
        raise InputError(f"{where} has levels {levels}; give it at least two different ones")
    if ("codes" in entry) == ("threshold" in entry):
        raise InputError(f"{where}: give either `codes` or `threshold`")
    by = _by_threshold(entry, where) if "threshold" in entry else _by_codes(entry, where)
    dropped = (*missing, *entry.get("dropped", ()))
    return Recode(Attribute(entry["name"], levels), entry["column"], by, dropped)


def _by_codes(entry: dict[str, Any], where: str) -> dict[Code, str]:
    levels, codes = entry["levels"], entry["codes"]
    if len(codes) != len(levels):
        raise InputError(f"{where} has {len(levels)} levels and codes for {len(codes)}")
    pairs = [(code, level) for level, its in zip(levels, codes, strict=True) for code in its]
    if repeated := _repeated(code for code, _ in pairs):
        raise InputError(f"{where} gives code {repeated[0]!r} to two levels; leave one out")
    return dict(pairs)


def _by_threshold(entry: dict[str, Any], where: str) -> Threshold:
    threshold = entry["threshold"]
    check_keys(threshold, f"{where}, threshold", {"name", "at_least", "level"}, set())
    if len(entry["levels"]) != 2 or threshold["level"] not in entry["levels"]:
        raise InputError(f"{where}: a threshold needs two levels and the name of one of them")
    return Threshold(**threshold)


def _question(entry: dict[str, Any], source: str, scales: dict[str, Any]) -> Question:
    where = f"question {entry.get('column')}"
    optional = {"ordinal", "dropped", "merged", "labels", "paper"}
    check_keys(entry, where, {"column", "topic", "text", "options"}, optional)
    options = _labelled(_options(entry, scales), where)
    return Question(
        source=source,
        question_id=entry["column"],
        topic=entry["topic"],
        text=entry["text"],
        option_codes=tuple(int(code) for code, _ in options),
        option_labels=tuple(label for _, label in options),
        ordinal=entry.get("ordinal", True),
        paper=entry.get("paper", True),
    )


def _options(entry: dict[str, Any], scales: dict[str, Any]) -> Any:
    options = entry.get("options", [])
    if not isinstance(options, str):
        return options
    if options not in scales:
        raise InputError(
            f"question {entry['column']} uses the scale {options!r}, which [scales] does not have"
        )
    return scales[options]


def _labelled(pairs: Any, where: str) -> tuple[tuple[int, str], ...]:
    try:
        return tuple((whole(code), str(label)) for code, label in pairs)
    except (OverflowError, TypeError, ValueError):
        raise InputError(
            f'{where}: write each option as [code, "label"], the code a whole number'
        ) from None


def _check_names(attributes: list[str], questions: list[str]) -> None:
    if repeated := _repeated([*RESERVED, *attributes, *questions]):
        raise InputError(
            f"the name {repeated[0]} is used twice, or reserved for a column of the cells; "
            "rename the attribute or the question's column"
        )


def _repeated(names: Iterable[Code]) -> list[Code]:
    return [name for name, count in Counter(names).items() if count > 1]
