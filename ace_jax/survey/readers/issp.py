"""The International Social Survey Programme: files of its modules, one or several at once.

The archive (GESIS) hands a module out as .sav and as .dta. Modules differ in the case
of variable names, so names are compared without it. Questions, their options
and what counts as no answer come from the files' own labels (`value_labels`).
"""

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.codebook import Codebook, Question, Recode, Threshold
from ace_jax.survey.codes import Code, codes
from ace_jax.survey.personas import ATTRIBUTES, country_of
from ace_jax.survey.readers.tables import Raw, check_columns, read_table
from ace_jax.survey.readers.value_labels import (
    Column,
    NotAQuestionError,
    options_of,
    question_text,
)

SOURCE = "issp"
WHOLE = "the complete .sav or .dta file of a module, as the archive hands it out"
# The paper's Table 4.
COUNTRIES = ("AUS", "CHL", "DEU", "GBR", "IND", "JPN", "NZL", "PHL", "RUS", "USA", "VEN")


class Module(NamedTuple):
    """A module: its study number in the archive, the year it is named after, and its topic."""

    study: int
    year: int
    topic: str


MODULES = (
    Module(5500, 2010, "Environment"),
    Module(5800, 2011, "Health"),
    Module(5900, 2012, "Family"),
    Module(5950, 2013, "National Identity"),
    Module(6670, 2014, "Citizenship"),
    Module(6770, 2015, "Work Orientations"),
    Module(6900, 2016, "Role of Government"),
    Module(6980, 2017, "Social Networks"),
    Module(7570, 2018, "Religion"),
    Module(7600, 2019, "Social Inequality"),
    Module(7650, 2020, "Environment"),
    Module(8000, 2021, "Health"),
)
KNOWN = "the modules known are " + ", ".join(f"ZA{module.study}" for module in MODULES)

GENDER, EDUCATION, RESIDENCE, MARITAL_STATUS = ATTRIBUTES
# 1 married, 2 civil partnership, 3 separated, 4 divorced, 5 widowed, 6 never.
MARITAL: Mapping[Code, str] = {
    code: "Married" if code == 1 else "Not Married" for code in range(1, 7)
}
# Each attribute's recode, and the codes that have a level; no other one has.
RECODES: tuple[tuple[Recode, range], ...] = (
    (Recode(GENDER, "SEX", {1: "Male", 2: "Female"}), range(1, 3)),
    # 5 lower level tertiary, 6 upper level tertiary.
    (Recode(EDUCATION, "DEGREE", Threshold("college", 5, "College Educated")), range(7)),
    # 1 big city, 2 its suburbs, 3 town or small city, 4 country village, 5 farm.
    (Recode(RESIDENCE, "URBRURAL", Threshold("rural", 4, "Rural")), range(1, 6)),
    (Recode(MARITAL_STATUS, "MARITAL", MARITAL), range(1, 7)),
)
NOT_TERTIARY = re.compile(r"(non|not)[- ]?tertiary")
TERTIARY = re.compile(r"tertiary|bachelor")
UPPER_TERTIARY = re.compile(r"upper[ -](level )?tertiary|post[ -]?tertiary|master|doctor|ph\.?d")

# Where a file has its study number: V1 to 2014, STUDYNO since. (No file was at hand to check
# STUDYNO and ZA_NR on; without a number, the file's label and then its name decide.)
STUDY = ("STUDYNO", "ZA_NR", "V1")
STUDY_NUMBER = re.compile(r"^(?:ZA)?\s?(\d{4,5})(?:\.0)?$")
# "DE-W" in C_ALPHAN; numbers of ISO 3166-1 in COUNTRY, and in V4 to 2014.
COUNTRY_COLUMNS = ("C_ALPHAN", "COUNTRY", "V4")
NUMERIC = re.compile(r"(\d{1,3})(?:\.0)?")
# V1 to V4 are the study, its version and the country in the modules before this year.
ITEMS_FROM_V1 = 2015
ADMINISTRATION = ("V1", "V2", "V3", "V4")
ITEM = re.compile(r"V\d+[A-Z]?")
# WEIGHT_COM is what version 2 of the module of 2021 calls it (as seen in code that reads it).
WEIGHTS = ("WEIGHT", "WEIGHT_COM")


# A module's table, its questions, its notes, and by attribute column the codes without a level.
_Part = tuple[pd.DataFrame, list[Question], dict[str, Any], dict[str, set[int]]]


def read(paths: Sequence[Path]) -> Raw:
    """Reads the files of different modules, in any order.

    The table has `country` (alpha-3), those of SEX, DEGREE, URBRURAL and MARITAL that all modules
    have (codes; missing for no level), one column a question (codes as in the file; missing in
    other modules' rows), and WEIGHT. The notes say of each module which variables are no questions
    and why, and how an attribute's codes were read. Raises InputError for files of another form.
    """
    modules: dict[Module, _Part] = {}
    for path in paths:
        module, columns = _open(path)
        if module in modules:
            raise InputError(
                f"{path} is the module of {module.year} again, after "
                f"{modules[module][2]['file']}; give each module once"
            )
        modules[module] = _part(path, module, columns)
    # By year, so that the order on the command line does not matter.
    modules = dict(sorted(modules.items(), key=lambda item: item[0].year))
    tables, questions, notes, no_level = zip(*modules.values(), strict=True)
    named = ", ".join(f"{module.topic} {module.year} (ZA{module.study})" for module in modules)
    codebook = Codebook(
        source=SOURCE,
        citation=f"ISSP Research Group, International Social Survey Programme: {named}. "
        "GESIS Data Archive, Cologne.",
        country=None,
        country_column="country",
        recodes=tuple(
            replace(
                one,
                dropped=tuple(sorted(set().union(*(its.get(one.column, ()) for its in no_level)))),
            )
            for one, _ in RECODES
        ),
        questions=tuple(chain(*questions)),
        countries=COUNTRIES,
    )
    left_out = Counter[str]()
    for about in notes:
        left_out.update({reason: len(items) for reason, items in about["left_out"].items()})
    about = {
        "modules": {f"issp{m.year}": its for m, its in zip(modules, notes, strict=True)},
        "left_out": dict(sorted(left_out.items())),
    }
    # An attribute that a module lacks would leave all its respondents out.
    lacking = {one.column for one, _ in RECODES if any(one.column not in of for of in tables)}
    table = pd.concat(tables, ignore_index=True).drop(columns=[*lacking], errors="ignore")
    return Raw(table, codebook, about)


def degrees(column: Column) -> dict[Code, int]:
    """Returns DEGREE's code for each of EDULEVEL's (in 2020 and 2021), as their labels say.

    6 for what the label calls upper or post-tertiary, master or doctoral; 5 for other tertiary
    education (short-cycle, bachelor); the code itself for what is below tertiary. A code that is
    none of these, or is no answer, is left out.
    """
    found: dict[Code, int] = {}
    for code, label in column.answers.items():
        plain = NOT_TERTIARY.sub("", label.casefold())
        if UPPER_TERTIARY.search(plain):
            found[code] = 6
        elif TERTIARY.search(plain):
            found[code] = 5
        elif code < 5:
            found[code] = int(code)
    return found


def _open(path: Path) -> tuple[Module, dict[str, Column]]:
    """Returns the file's module, and the columns that are read by their names in upper case."""

    def choose(found: list[str]) -> list[str]:
        names = {name.upper(): name for name in found}
        country = _first_of(COUNTRY_COLUMNS, names)
        check_columns([country], names, path, WHOLE)
        education = _first_of(("DEGREE", "EDULEVEL"), names)
        attributes = [country, education, "SEX", "URBRURAL", "MARITAL"]
        wanted = dict.fromkeys([*attributes, *STUDY, *WEIGHTS, *filter(ITEM.fullmatch, names)])
        return [names[name] for name in wanted if name in names]

    columns, label = read_table(path, choose)
    if not any(column.labels for column in columns.values()):
        raise InputError(f"{path} has no value labels; give {WHOLE}")
    columns = {name.upper(): column for name, column in columns.items()}
    return _recognised(columns, label, path), columns


def _first_of(candidates: tuple[str, ...], has: Container[str]) -> str:
    return next((name for name in candidates if name in has), candidates[0])


def _recognised(columns: Mapping[str, Column], label: str, path: Path) -> Module:
    """Returns the module that the study number says, or else the file's label or name."""
    by_study = {module.study: module for module in MODULES}
    for name in filter(columns.__contains__, STUDY):
        # V1 is an item in newer modules, and no item has codes of four digits.
        numbers = columns[name].values.astype(str).str.extract(STUDY_NUMBER)[0].unique()
        if len(numbers) == 1 and isinstance(numbers[0], str):
            if int(numbers[0]) in by_study:
                return by_study[int(numbers[0])]
            raise InputError(f"{path} is study ZA{numbers[0]} ({name}); {KNOWN}")
    for text in (label, path.name):
        for module in MODULES:
            if re.search(rf"ZA\s?{module.study}|ISSP\W*{module.year}", text, re.IGNORECASE):
                return module
    raise InputError(f"{path} does not say which module it is, by {' or '.join(STUDY)}; {KNOWN}")


def _part(path: Path, module: Module, columns: Mapping[str, Column]) -> _Part:
    table, no_level, attributes = {"country": _countries(path, columns)}, {}, {}
    for recode, has_level in RECODES:
        name = recode.column
        if {name, "EDULEVEL" if name == "DEGREE" else name} & {*columns}:
            its = _attribute(recode, has_level, path, columns)
            table[name], no_level[name], attributes[name] = its
    if weight := next((name for name in WEIGHTS if name in columns), None):
        table["WEIGHT"] = codes(columns[weight].values, path)
    administration = ADMINISTRATION if module.year < ITEMS_FROM_V1 else ()
    questions: list[Question] = []
    left_out: dict[str, list[str]] = {}
    for item in filter(ITEM.fullmatch, columns):
        if item in administration:
            continue
        column = columns[item]
        if column.labels:
            column = replace(column, values=codes(column.values, path))
        try:
            found, text = options_of(column), question_text(column.text)
        except NotAQuestionError as error:
            left_out.setdefault(str(error), []).append(item)
            continue
        question_id = f"issp{module.year}_{item.lower()}"
        numbers = tuple(int(code) for code, _ in found.options)
        labels = tuple(label for _, label in found.options)
        asked = (SOURCE, question_id, module.topic, text)
        questions.append(Question(*asked, numbers, labels, found.ordinal, dropped=found.dropped))
        table[question_id] = column.values
    if not questions:
        raise InputError(f"{path} has no item with labelled options; give {WHOLE}")
    about = {
        "topic": module.topic,
        "study": f"ZA{module.study}",
        "file": path.name,
        "respondents": len(table["country"]),
        "questions": len(questions),
        "left_out": left_out,
        "attributes": attributes,
    }
    return pd.DataFrame(table), questions, about, no_level


def _attribute(
    recode: Recode, has_level: range, path: Path, columns: Mapping[str, Column]
) -> tuple[pd.Series, set[int], dict[str, Any]]:
    """Returns the codes (float, missing for no level), those without a level, and the notes."""
    name = recode.column if recode.column in columns else "EDULEVEL"
    column, values = columns[name], codes(columns[name].values, path)
    about: dict[str, Any] = {"column": name}
    of: dict[Code, int] = {code: code for code in has_level}
    if name != recode.column:
        of = degrees(column)
        about["as_DEGREE"] = {_described(code, column): degree for code, degree in of.items()}
    found = {float(code) for code in values.dropna()}
    answered = sorted(code for code in found if not column.is_missing(code))
    levels = values.where(values.isin(answered)).map(of).astype("float64")
    named = {*recode.levels(levels.dropna())}
    if absent := [level for level in recode.attribute.levels if level not in named]:
        raise InputError(
            f"{path}: nobody is {absent[0]} by the codes of column {name}; give {WHOLE}"
        )
    # Answers that the rules give no level, such as another country's kind of marriage.
    if unknown := {code: int((values == code).sum()) for code in answered if code not in of}:
        about["no_level"] = {_described(code, column): n for code, n in unknown.items()}
    none = {int(code) for code in values[levels.isna()].dropna()}
    return levels, none - {*has_level}, about


def _described(code: Code, column: Column) -> str:
    return f"{code:g} {column.label(code)}".strip()


def _countries(path: Path, columns: Mapping[str, Column]) -> pd.Series:
    name = _first_of(COUNTRY_COLUMNS, columns)
    values = columns[name].values.astype(str).str.strip()
    alpha3 = values.map({code: _alpha3(code) for code in values.unique()})
    if unknown := list(values[alpha3.isna()]):
        raise InputError(
            f"{path}: column {name} holds the country {unknown[0]!r} "
            f"({len(unknown)} respondents), which ISO 3166-1 does not have; "
            "correct it, or leave those respondents out"
        )
    return alpha3


def _alpha3(code: str) -> str | None:
    """Returns the country of "DE", of a part of it such as "DE-W" or "GB-GBN", or of "276"."""
    number = NUMERIC.fullmatch(code)
    return country_of(number[1].zfill(3) if number else code.partition("-")[0])
