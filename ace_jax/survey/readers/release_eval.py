"""The cells that the authors of ACE-Align released, `data/eval`, and how their values are read.

docs/surveys.md ("The authors' release") describes the files. Their pairs: `release_train`.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from ace_jax import __version__
from ace_jax.errors import InputError
from ace_jax.survey.codebook import COUNTRY, Question
from ace_jax.survey.dataset import Dataset, cell_schema, question_table
from ace_jax.survey.manifest import COMPLETE, count_cells
from ace_jax.survey.personas import ATTRIBUTES

CELL_FILES = "*/[1-4]_attributes/*/*.json"
COUNTRIES = {
    "australia": "AUS",
    "chile": "CHL",
    "egypt": "EGY",
    "ethiopia": "ETH",
    "germany": "DEU",
    "great_britain": "GBR",
    "india": "IND",
    "japan": "JPN",
    "mexico": "MEX",
    "new_zealand": "NZL",
    "nigeria": "NGA",
    "philippines": "PHL",
    "russia": "RUS",
    "united_states": "USA",
}
# The files' spelling of the levels of `personas.ATTRIBUTES`.
LEVELS = {
    "gender": {"Male": "Male", "Female": "Female"},
    "education": {"College": "College Educated", "No_College": "Not College Educated"},
    "residence": {"Urban": "Urban", "Rural": "Rural"},
    "marital_status": {"Married": "Married", "Not_Married": "Not Married"},
}
PLACEHOLDER = re.compile(r"\[\s*country\s*(['\u2019]s)?\s*\]", re.IGNORECASE)
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
LARGEST = 10**18  # whole numbers are kept in 64 bits
KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}
SUM_TOLERANCE = 1e-3

Labels = tuple[str, ...]
Persona = tuple[str | None, ...]
Wording = tuple[str, tuple[int, ...], Labels]


@dataclass(frozen=True, slots=True)
class _Cell:
    """A cell of an eval file; `p` is all 0 where nobody answered."""

    country: str
    category: str
    question_id: str
    wording: Wording
    persona: Persona
    n: int
    p: tuple[float, ...]

    @property
    def granularity(self) -> int:
        return sum(level is not None for level in self.persona)


def is_release_eval(path: Path) -> bool:
    """Returns whether `path` is a directory laid out as the authors' `data/eval`."""
    return any(path.glob(CELL_FILES))


def read_eval(directory: Path) -> Dataset:
    """Reads the authors' `data/eval`: a directory a country, in it cells in JSON files.

    A question's id is `category:question_id`, its cells' source `release:category`. Countries that
    word a question or its options in another way are kept apart: the first country's wording (in
    the order of the directories) has the plain id, another one `category:question_id@CODE`, after
    the first country (alpha-3) to have it. Probabilities that sum to 1 within 1e-3 are divided by
    their sum. Cells that nobody answered (a count or all probabilities of 0) are left out; cells
    of few respondents stay.
    Raises InputError, with the file and the cell's place in it, for files of another form.
    """
    files = sorted(directory.glob(CELL_FILES), key=lambda path: path.as_posix())
    if not files:
        raise InputError(
            f"{directory} has no COUNTRY/{{1,2,3,4}}_attributes/ATTRIBUTES/CATEGORY_real.json; "
            "give the authors' data/eval directory"
        )
    cells: list[_Cell] = []
    wordings: dict[tuple[str, str], Wording] = {}
    personas: set[tuple[str, str, Persona]] = set()
    digest = hashlib.sha256()
    for path in files:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        name = path.relative_to(directory).as_posix()
        digest.update(f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode())
        cells += _cells(content, path, wordings, personas)
    answered = [cell for cell in cells if cell.n > 0 and any(cell.p)]
    if not answered:
        raise InputError(f"{directory}: nobody answered any of its {len(cells)} cells; add others")
    questions = _questions(answered)
    inputs = {"name": directory.resolve().name, "files": len(files), "sha256": digest.hexdigest()}
    table = _table(answered, questions)
    named = ((plain, question.question_id) for (plain, _), question in questions.items())
    manifest = {
        "version": __version__,
        "source": "release",
        "citation": "Evaluation cells released with ACE-Align, made from the World Values Survey "
        "(wave 7) and the International Social Survey Programme.",
        "attributes": {attribute.name: list(attribute.levels) for attribute in ATTRIBUTES},
        "rules": {
            "levels": LEVELS,
            "weights": None,
            "filters": [COMPLETE],
            "worded_otherwise": [name for plain, name in named if name != plain],
        },
        "inputs": [inputs],
        "counts": {
            "questions": len(questions),
            "cells": len(answered),
            "cells_without_answers": len(cells) - len(answered),
        }
        | count_cells(table, ATTRIBUTES),
        "estimator": "raw",
    }
    return Dataset(question_table(questions.values()), table, manifest)


def _cells(
    content: bytes,
    path: Path,
    wordings: dict[tuple[str, str], Wording],
    personas: set[tuple[str, str, Persona]],
) -> list[_Cell]:
    """Returns a file's cells, and enters their wordings and personas into the two collections."""
    slug, attributes = path.parts[-4], path.parts[-3]
    if slug not in COUNTRIES:
        near = get_close_matches(slug, COUNTRIES, 1) or list(COUNTRIES)
        raise InputError(f"{path}: no country of the release is {slug}; name it {', '.join(near)}")
    entries = parse_json(content, str(path))
    if not isinstance(entries, list):
        raise InputError(f"{path} is not a list of cells; give it as the authors do")
    cells = []
    for place, entry in enumerate(entries, 1):
        try:
            cell = _cell(entry, COUNTRIES[slug])
            if cell.granularity != int(attributes[0]):
                raise InputError(
                    f"demographics names {cell.granularity} attributes; put it into "
                    f"{cell.granularity}_attributes, or correct it"
                )
            question = (cell.country, cell.question_id)
            if wordings.setdefault(question, cell.wording) != cell.wording:
                raise InputError(
                    f"question {cell.question_id} has another text or other options than before "
                    f"in {cell.country}; give each question of a country an id of its own"
                )
            if (*question, cell.persona) in personas:
                named = ", ".join(level for level in cell.persona if level is not None)
                raise InputError(
                    f"{cell.question_id} for {named} in {cell.country} is there before; remove one"
                )
        except InputError as error:
            raise InputError(f"{path}, cell {place}: {error}") from None
        personas.add((*question, cell.persona))
        cells.append(cell)
    return cells


def _cell(entry: Any, country: str) -> _Cell:
    category = field(entry, "category", str)
    options = field(entry, "options", dict)
    texts = tuple(field(options, key, str) for key in options)
    n = whole_number(field(entry, "sample_count"), "sample_count")
    if n < 0:
        raise InputError(f"sample_count is {n}; give the number of respondents")
    return _Cell(
        country=country,
        category=category,
        question_id=f"{category}:{field(entry, 'question_id', str)}",
        wording=_wording(field(entry, "question_text", str), tuple(options), texts),
        persona=persona_of(field(entry, "demographics", dict)),
        n=n,
        p=shares(field(entry, "p_real", dict), tuple(options)),
    )


@cache
def _wording(text: str, codes: Labels, labels: Labels) -> Wording:
    # Cached, because a question is worded the same in all its cells.
    numbers = tuple(int(number) for number in option_numbers(list(codes)))
    return with_placeholder(text), numbers, tuple(map(with_placeholder, labels))


def _questions(cells: Sequence[_Cell]) -> dict[tuple[str, Wording], Question]:
    """Returns the question of each id and wording, in the order in which they first appear."""
    questions: dict[tuple[str, Wording], Question] = {}
    plain: set[str] = set()
    for cell in cells:
        key = (cell.question_id, cell.wording)
        if key in questions:
            continue
        text, codes, labels = cell.wording
        suffix = f"@{cell.country}" if cell.question_id in plain else ""
        questions[key] = Question(
            source=f"release:{cell.category}",
            question_id=cell.question_id + suffix,
            topic=cell.category,
            text=text,
            option_codes=codes,
            option_labels=labels,
            ordinal=True,
        )
        plain.add(cell.question_id)
    return questions


def _table(
    cells: Sequence[_Cell], questions: Mapping[tuple[str, Wording], Question]
) -> pd.DataFrame:
    rows = []
    for cell in cells:
        question = questions[cell.question_id, cell.wording]
        where = (question.source, cell.country, question.question_id, cell.granularity)
        rows.append((*where, *cell.persona, cell.n, float(cell.n), cell.p))
    schema = cell_schema(ATTRIBUTES)
    columns = dict(zip(schema.names, zip(*rows, strict=True), strict=True))
    # Through Arrow, so that the columns have the types with which a DATASET is read back.
    return pa.table(columns, schema=schema).to_pandas()


def parse_json(content: bytes, where: str) -> Any:
    """Reads JSON in UTF-8; raises InputError that says `where` if it is anything else."""
    try:
        text = content.decode("utf-8-sig")
        value = json.loads(text)
        if "\\u" in text:  # JSON can spell half a character, which UTF-8 cannot
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise InputError(f"{where} is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8") from None
    except UnicodeEncodeError:
        raise InputError(f"{where} has half a character (a surrogate); correct it") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); correct it or take it out") from None


def field(record: Any, key: str, kind: type | None = None) -> Any:
    """Returns an object's value under a key; raises InputError for none, or one of another kind."""
    if not isinstance(record, dict):
        raise InputError(f"{record!r:.40} is not an object; give one with the release's keys")
    if key not in record:
        raise InputError(f"the key {key} is missing; add it")
    if kind is not None and not isinstance(record[key], kind):
        raise InputError(f"{key} is {record[key]!r:.40}; give {KINDS[kind]}")
    return record[key]


def whole_number(value: Any, what: str) -> int:
    """Returns a whole number that is written as one, as text, or with a decimal point."""
    if isinstance(value, str) and WHOLE_NUMBER.fullmatch(value):
        return int(value)
    if type(value) in (int, float) and abs(value) < LARGEST and value % 1 == 0:
        return int(value)
    raise InputError(f"{what} is {value!r:.40}; give a whole number")


def option_numbers(options: list[Any]) -> Labels:
    """Returns the options' numbers as bare texts, in their order; there are two or more."""
    labels = tuple(str(whole_number(option, "an option")) for option in options)
    if len(labels) < 2:
        raise InputError(f"options has {len(labels)}; give two or more")
    if len(set(labels)) < len(labels):
        raise InputError(f"options repeats one ({', '.join(labels)}); give each once")
    return labels


def shares(p_real: dict[str, Any], options: Labels) -> tuple[float, ...]:
    """Returns the probability of each option, absent ones 0: they sum to 1, or all are 0.

    Probabilities that sum to 1 within 1e-3 are divided by their sum. Raises InputError for any
    other sum, a key that is no option, and a value that is negative or not a finite number.
    """
    if unknown := sorted(p_real.keys() - set(options)):
        raise InputError(
            f"p_real has {unknown[0]!r:.40}, which is not among the options; remove it"
        )
    given = [p_real.get(option, 0.0) for option in options]
    for option, share in zip(options, given, strict=True):
        if not (type(share) in (int, float) and 0 <= share < LARGEST):
            raise InputError(
                f"p_real gives option {option} the probability {share!r:.40}; "
                "give a number from 0 to 1"
            )
    total = math.fsum(given)
    if total == 0:
        return (0.0,) * len(options)
    if abs(total - 1) > SUM_TOLERANCE:
        raise InputError(f"p_real sums to {total:.6g}; give probabilities that sum to 1")
    return tuple(share / total for share in given)


def persona_of(demographics: dict[str, Any]) -> Persona:
    """Returns the level of each of `personas.ATTRIBUTES`, None where the cell names none."""
    if unknown := sorted(demographics.keys() - {*LEVELS, "country"}):
        raise InputError(
            f"demographics has {unknown[0]!r:.40}, which is none of {', '.join(LEVELS)}; remove it"
        )
    persona: list[str | None] = []
    for attribute, levels in LEVELS.items():
        spelt = demographics.get(attribute)
        if spelt is not None and str(spelt) not in levels:
            raise InputError(f"{attribute} is {spelt!r:.40}; give {' or '.join(levels)}")
        persona.append(None if spelt is None else levels[spelt])
    return tuple(persona)


def with_placeholder(text: str) -> str:
    """Returns the text with one spelling of the country's placeholder."""
    return PLACEHOLDER.sub(lambda found: COUNTRY + ("'s" if found[1] else ""), text.strip())


def alpha3(name: str) -> str:
    """Returns the code of a country named in words or as a slug; others as they are."""
    return COUNTRIES.get(name.strip().lower().replace(" ", "_"), name)
