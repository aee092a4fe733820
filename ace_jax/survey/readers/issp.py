"""The International Social Survey Programme: files of its modules, one or several at once.

The archive (GESIS) hands a module out as .sav and as .dta. Modules differ in the case
of variable names, so names are compared without it. Questions, their options
and what counts as no answer come from the files' own labels (`value_labels`).
"""

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pycountry

from ace_jax.errors import InputError
from ace_jax.survey.codebook import Code, Codebook, Question, Recode
from ace_jax.survey.readers.columns import check_columns, codes
from ace_jax.survey.readers.issp_rules import LEVEL_CODES, MODULES, RECODES, Module, degrees, level
from ace_jax.survey.readers.spss_stata import open_statistics
from ace_jax.survey.readers.value_labels import (
    NotAQuestionError,
    is_missing,
    option_label,
    options_of,
    question_text,
)
from ace_jax.survey.selection import Raw

SOURCE = "issp"
WHOLE = "the complete file of a module, as the archive hands it out"
# The paper's Table 4.
COUNTRIES = ("AUS", "CHL", "DEU", "GBR", "IND", "JPN", "NZL", "PHL", "RUS", "USA", "VEN")

# Where a file has its study number: V1 to 2014, STUDYNO since. (No file was at hand to check
# STUDYNO and ZA_NR on; without a number, the file's label and then its name decide.)
STUDY = ("STUDYNO", "ZA_NR", "V1")
STUDY_NUMBER = re.compile(r"^(?:ZA)?\s?(\d{4,5})(?:\.0)?$")
KNOWN = "the modules known are " + ", ".join(f"ZA{module.study}" for module in MODULES)
# "DE-W" in C_ALPHAN; numbers of ISO 3166-1 in COUNTRY, and in V4 to 2014.
COUNTRY_COLUMNS = ("C_ALPHAN", "COUNTRY", "V4")
NUMERIC = re.compile(r"(\d{1,3})(?:\.0)?")
# V1 to V4 are the study, its version and the country in the modules before this year.
ITEMS_FROM_V1 = 2015
ADMINISTRATION = ("V1", "V2", "V3", "V4")
ITEM = re.compile(r"V\d+[A-Z]?")
# WEIGHT_COM is what version 2 of the module of 2021 calls it (as seen in code that reads it).
WEIGHTS = ("WEIGHT", "WEIGHT_COM")


@dataclass(frozen=True)
class _File:
    """A module's file: the columns that are read, in upper case, and its labels for them."""

    path: Path
    module: Module
    recognised_by: str
    table: pd.DataFrame
    texts: Mapping[str, str | None]
    labels: Mapping[str, Mapping[Code, str]]
    ranges: Mapping[str, list[dict[str, Any]]]
    columns: list[str]


@dataclass(frozen=True)
class _Part:
    """What a module's file adds; `no_level` are codes without a level, by attribute column."""

    table: pd.DataFrame
    questions: list[Question]
    no_level: dict[str, set[int]]
    about: dict[str, Any]


def read(paths: Sequence[Path]) -> Raw:
    """Reads the files of different modules, in any order.

    The table has `country` (alpha-3), SEX, DEGREE, URBRURAL and MARITAL (codes; missing for no
    level; DEGREE from the labels of EDULEVEL where a module has that), one column a question (codes
    as in the file; missing in other modules' rows), and WEIGHT. The notes say of each module which
    variables are no questions and why, and how an attribute's codes were read.

    Raises InputError for a file that is neither .sav nor .dta, is damaged, is of no module or of
    one given before, has no labels or lacks a column, holds text where codes belong, lacks a
    level, or names a country that is not known.
    """
    modules: dict[Module, _Part] = {}
    for path in paths:
        file = _open(path)
        if file.module in modules:
            raise InputError(
                f"{path} is the module of {file.module.year} again, after "
                f"{modules[file.module].about['file']}; give each module once"
            )
        modules[file.module] = _part(file)
    # By year, so that the order on the command line does not matter.
    modules = dict(sorted(modules.items(), key=lambda item: item[0].year))
    parts = list(modules.values())
    recodes = []
    for recode in RECODES:
        no_level = {code for part in parts for code in part.no_level[recode.column]}
        recodes.append(replace(recode, dropped=tuple(sorted(no_level))))
    codebook = Codebook(
        source=SOURCE,
        citation=_citation(modules),
        country=None,
        country_column="country",
        recodes=tuple(recodes),
        questions=tuple(question for part in parts for question in part.questions),
        countries=COUNTRIES,
    )
    left_out = Counter[str]()
    for part in parts:
        left_out.update({reason: len(of) for reason, of in part.about["left_out"].items()})
    notes = {
        "modules": {module.name: part.about for module, part in modules.items()},
        "left_out": dict(sorted(left_out.items())),
    }
    return Raw(pd.concat([part.table for part in parts], ignore_index=True), codebook, notes)


def _open(path: Path) -> _File:
    file = open_statistics(path)
    if file is None:
        raise InputError(
            f"{path} is neither an SPSS (.sav) nor a Stata (.dta) file; give the module's .sav or "
            ".dta, which carry its labels"
        )
    names = {name.upper(): name for name in file.metadata.column_names}
    needed = [
        _first_of(COUNTRY_COLUMNS, names),
        _first_of(("DEGREE", "EDULEVEL"), names),
        *("SEX", "URBRURAL", "MARITAL"),
    ]
    check_columns(needed, names, path, WHOLE)
    wanted = [*needed, *STUDY, *WEIGHTS, *filter(ITEM.fullmatch, names)]
    upper = {names[name]: name for name in wanted if name in names}
    table, metadata = file.read(list(upper), user_missing=True)
    if not metadata.variable_value_labels:
        raise InputError(
            f"{path} has no value labels, so nothing says what is an option; give {WHOLE}"
        )
    if table.empty:
        raise InputError(f"{path} has variables and no respondents; download it again")
    table = table.rename(columns=upper)
    module, recognised_by = _recognised(table, metadata.file_label or "", path)
    return _File(
        path=path,
        module=module,
        recognised_by=recognised_by,
        table=table,
        texts={upper[name]: text for name, text in metadata.column_names_to_labels.items()},
        labels={upper[name]: of for name, of in metadata.variable_value_labels.items()},
        ranges={upper[name]: of for name, of in metadata.missing_ranges.items()},
        columns=list(names),
    )


def _first_of(candidates: tuple[str, ...], has: Container[str]) -> str:
    return next((name for name in candidates if name in has), candidates[0])


def _recognised(table: pd.DataFrame, label: str, path: Path) -> tuple[Module, str]:
    """Returns the module, and whether study number, file label or file name says so."""
    by_study = {module.study: module for module in MODULES}
    for name in filter(table.__contains__, STUDY):
        # V1 is an item in newer modules, and no item has codes of four digits.
        numbers = table[name].astype(str).str.extract(STUDY_NUMBER)[0].unique()
        if len(numbers) == 1 and isinstance(numbers[0], str):
            if int(numbers[0]) in by_study:
                return by_study[int(numbers[0])], f"column {name}"
            raise InputError(f"{path} is study ZA{numbers[0]} ({name}); {KNOWN}")
    for text, what in ((label, "the file's label"), (path.name, "the file's name")):
        for module in MODULES:
            if re.search(rf"ZA\s?{module.study}|ISSP\W*{module.year}", text, re.IGNORECASE):
                return module, what
    raise InputError(f"{path} does not say which module it is, by {' or '.join(STUDY)}; {KNOWN}")


def _part(file: _File) -> _Part:
    columns, no_level, attributes = {"country": _countries(file)}, {}, {}
    for recode in RECODES:
        name = recode.column
        columns[name], no_level[name], attributes[name] = _attribute(recode, file)
    if weight := next((name for name in WEIGHTS if name in file.table), None):
        columns["WEIGHT"] = codes(file.table[weight], file.path)
    administration = ADMINISTRATION if file.module.year < ITEMS_FROM_V1 else ()
    items = [name for name in filter(ITEM.fullmatch, file.columns) if name not in administration]
    questions: list[Question] = []
    left_out: dict[str, list[str]] = {}
    for item in items:
        column = file.table[item]
        if item in file.labels:
            column = codes(column, file.path)
        try:
            questions.append(_question(item, column, file))
        except NotAQuestionError as error:
            left_out.setdefault(str(error), []).append(item)
            continue
        columns[questions[-1].question_id] = column
    if not questions:
        raise InputError(f"{file.path} has no item with labelled options; give {WHOLE}")
    about = {
        "topic": file.module.topic,
        "study": f"ZA{file.module.study}",
        "file": file.path.name,
        "recognised_by": file.recognised_by,
        "respondents": len(file.table),
        "questions": len(questions),
        "left_out": left_out,
        "attributes": attributes,
    }
    return _Part(pd.DataFrame(columns), questions, no_level, about)


def _question(item: str, column: pd.Series, file: _File) -> Question:
    options = options_of(column, file.labels.get(item, {}), file.ranges.get(item, []))
    return Question(
        source=SOURCE,
        question_id=f"{file.module.name}_{item.lower()}",
        topic=file.module.topic,
        text=question_text(file.texts[item]),
        option_codes=options.codes,
        option_labels=options.labels,
        ordinal=options.ordinal,
        dropped=options.dropped,
    )


def _attribute(recode: Recode, file: _File) -> tuple[pd.Series, set[int], dict[str, Any]]:
    """Returns the codes (float, missing for no level), those without a level, and the notes."""
    name = recode.column if recode.column in file.table else "EDULEVEL"
    column = codes(file.table[name], file.path)
    labels, ranges = file.labels.get(name, {}), file.ranges.get(name, [])
    about: dict[str, Any] = {"column": name}
    of: dict[Code, int] = {code: code for code in LEVEL_CODES[recode.column]}
    if name != recode.column:
        of = degrees(labels, ranges)
        about["as_DEGREE"] = {_described(code, labels): degree for code, degree in of.items()}
    answered = [float(code) for code in column.dropna().unique()]
    answered = [code for code in answered if not is_missing(code, labels, ranges)]
    levels = column.where(column.isin(answered)).map(of).astype("float64")
    found = {level(recode, code) for code in levels.dropna().unique()}
    if absent := [one for one in recode.attribute.levels if one not in found]:
        raise InputError(
            f"{file.path}: nobody is {absent[0]} by the codes of column {name}; give {WHOLE}"
        )
    # Answers that the rules give no level, such as another country's kind of marriage.
    if unknown := [code for code in answered if code not in of]:
        counts = {code: int((column == code).sum()) for code in unknown}
        about["no_level"] = {_described(code, labels): n for code, n in counts.items()}
    none = {int(code) for code in column[levels.isna()].dropna().unique()}
    return levels, none - {*LEVEL_CODES[recode.column]}, about


def _described(code: Code, labels: Mapping[Code, str]) -> str:
    return f"{code:g} {option_label(code, labels.get(code, ''))}".strip()


def _countries(file: _File) -> pd.Series:
    name = _first_of(COUNTRY_COLUMNS, file.table.columns)
    column = file.table[name].astype(str).str.strip()
    alpha3 = {code: _alpha3(code) for code in column.unique()}
    for code, country in alpha3.items():
        if country is None:
            raise InputError(
                f"{file.path}: column {name} holds the country {code!r} "
                f"({int((column == code).sum())} respondents), which ISO 3166-1 does not have; "
                "correct it, or leave those respondents out"
            )
    return column.map(alpha3)


def _alpha3(code: str) -> str | None:
    """Returns the country of "DE", of a part of it such as "DE-W" or "GB-GBN", or of "276"."""
    number = NUMERIC.fullmatch(code)
    country = (
        pycountry.countries.get(numeric=number[1].zfill(3))
        if number
        else pycountry.countries.get(alpha_2=code.partition("-")[0].upper())
    )
    return None if country is None else str(country.alpha_3)


def _citation(modules: Iterable[Module]) -> str:
    named = ", ".join(f"{module.topic} {module.year} (ZA{module.study})" for module in modules)
    return (
        f"ISSP Research Group, International Social Survey Programme: {named}. "
        "GESIS Data Archive, Cologne."
    )
