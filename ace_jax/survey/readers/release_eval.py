"""The cells that the authors of ACE-Align released, `data/eval`, and how their values are read.

Their pairs: `release_train`.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from ace_jax import __version__
from ace_jax.errors import InputError, check_known, within
from ace_jax.files import digests, reason
from ace_jax.survey.build import COMPLETE, count_cells
from ace_jax.survey.codebook import COUNTRY, Question
from ace_jax.survey.dataset import Dataset, cell_schema, question_table
from ace_jax.survey.personas import ATTRIBUTES, country_names

CELL_FILES = "*/[1-4]_attributes/*/*.json"
# A country's code by its directory, or as a line of `data/train` has it.
COUNTRIES = {name.lower().replace(" ", "_"): code for code, name in country_names().items()}
COUNTRIES |= {"great_britain": "GBR", "russia": "RUS"}
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
COLUMNS = ["where", "category", "asked", "wording", "country", "granularity", *LEVELS, "n", "p"]


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
    rows = [row for path in files for row in _rows(path)]
    hashes = digests(directory, [path.relative_to(directory).as_posix() for path in files])
    digest = hashlib.sha256("".join(f"{its}  {name}\n" for name, its in hashes.items()).encode())
    cells = pd.DataFrame(rows, columns=COLUMNS)
    question = ["asked", "country"]
    other = ~cells.duplicated([*question, "wording"]) & cells.duplicated(question)
    for bad, what in (
        (other, "has another text or other options than in this country's cells before"),
        (cells.duplicated([*question, *LEVELS]), "is there before for the same persona"),
    ):
        if bad.any():
            first = cells[bad].iloc[0]
            raise InputError(f"{first['where']}: {first['asked']} {what}; take it out")
    answered = cells[(cells["n"] > 0) & cells["p"].map(any).astype(bool)]
    if answered.empty:
        raise InputError(f"{directory}: nobody answered any of its {len(cells)} cells; add others")
    answered = answered.assign(source="release:" + answered["category"], effective_n=answered["n"])
    worded = ["asked", "wording"]
    questions = answered.drop_duplicates(worded)
    plain, apart = questions["asked"], questions["asked"] + "@" + questions["country"]
    questions = questions.assign(question_id=plain.mask(plain.duplicated(), apart))
    table = answered.merge(questions[[*worded, "question_id"]], on=worded, how="left")
    # Through Arrow, so that the columns have the types with which a DATASET is read back.
    schema = cell_schema(ATTRIBUTES)
    table = pa.Table.from_pandas(table[schema.names], schema, preserve_index=False)
    table = table.replace_schema_metadata(None).to_pandas()
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
            "worded_otherwise": apart[plain.duplicated()].tolist(),
        },
        "inputs": [
            {"name": directory.resolve().name, "files": len(files), "sha256": digest.hexdigest()}
        ],
        "counts": {
            "questions": len(questions),
            "cells": len(table),
            "cells_without_answers": len(cells) - len(table),
        }
        | count_cells(table, ATTRIBUTES),
        "estimator": "raw",
    }
    named = questions[["source", "question_id", "category", "wording"]].to_numpy()
    asked = (
        Question(source, name, topic, text, codes, labels, ordinal=True)
        for source, name, topic, (text, codes, labels) in named
    )
    return Dataset(question_table(asked), table, manifest)


def _rows(path: Path) -> Iterator[tuple[Any, ...]]:
    """Yields COLUMNS of each cell of a file; `p` is all 0 where nobody answered."""
    slug, attributes = path.parts[-4], path.parts[-3]
    check_known(slug, COUNTRIES, f"{path}: the country's directory")
    try:
        entries = parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not isinstance(entries, list):
        raise InputError(f"{path} is not a list of cells; give it as the authors do")
    for place, entry in enumerate(entries, 1):
        where = f"{path}, cell {place}"
        with within(where):
            category = field(entry, "category", str)
            options = field(entry, "options", dict)
            labels = tuple(field(options, key, str) for key in options)
            wording = _wording(field(entry, "question_text", str), tuple(options), labels)
            persona = persona_of(field(entry, "demographics", dict))
            named = sum(level is not None for level in persona)
            if named != int(attributes[0]):
                raise expected("demographics", persona, f"as many as {attributes} says")
            n = whole_number(field(entry, "sample_count", object), "sample_count")
            if n < 0:
                raise expected("sample_count", n, "the number of respondents")
            asked = f"{category}:{field(entry, 'question_id', str)}"
            p = shares(field(entry, "p_real", dict), tuple(options))
        yield (where, category, asked, wording, COUNTRIES[slug], named, *persona, n, p)


@cache
def _wording(text: str, codes: Labels, labels: Labels) -> Wording:
    # Cached, because a question is worded the same in all its cells.
    numbers = tuple(int(number) for number in option_numbers(list(codes)))
    return with_placeholder(text), numbers, tuple(map(with_placeholder, labels))


def parse_json(content: bytes, where: str) -> Any:
    """Reads JSON in UTF-8; raises InputError that says `where` if it is anything else."""
    try:
        text = content.decode("utf-8-sig")
        value = json.loads(text)
        if "\\u" in text:  # JSON can spell half a character, which UTF-8 cannot
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON in UTF-8 ({reason(error)}); correct it") from None


def field(record: Any, key: str, kind: type) -> Any:
    """Returns an object's value under a key; raises InputError for none, or one of another kind."""
    if not isinstance(record, dict):
        raise expected("it", record, "an object with the release's keys")
    if key not in record:
        raise InputError(f"the key {key} is missing; add it")
    if not isinstance(record[key], kind):
        raise expected(key, record[key], KINDS[kind])
    return record[key]


def expected(name: str, value: Any, what: str) -> InputError:
    """Returns the error of a field that is not what it should be."""
    return InputError(f"{name} is {value!r:.40}, expected {what}; correct it or take it out")


def whole_number(value: Any, what: str) -> int:
    """Returns a whole number that is written as one, as text, or with a decimal point."""
    if isinstance(value, str) and WHOLE_NUMBER.fullmatch(value):
        return int(value)
    if type(value) in (int, float) and abs(value) < LARGEST and value % 1 == 0:
        return int(value)
    raise expected(what, value, "a whole number")


def option_numbers(options: list[Any]) -> Labels:
    """Returns the options' numbers as bare texts, in their order; there are two or more."""
    labels = tuple(str(whole_number(option, "an option")) for option in options)
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise expected("options", labels, "two or more, each once")
    return labels


def shares(p_real: dict[str, Any], options: Labels) -> tuple[float, ...]:
    """Returns the probability of each option, absent ones 0: they sum to 1, or all are 0.

    Probabilities that sum to 1 within 1e-3 are divided by their sum. Raises InputError for any
    other sum, a key that is no option, and a value that is negative or not a finite number.
    """
    for option, share in p_real.items():
        if option not in options or type(share) not in (int, float) or not 0 <= share < LARGEST:
            raise expected(
                f"p_real of option {option:.40}", share, "an option's share, from 0 to 1"
            )
    total = math.fsum(p_real.values())
    if total and abs(total - 1) > SUM_TOLERANCE:
        raise expected("the sum of p_real", total, "1")
    return tuple(p_real.get(option, 0) / (total or 1) for option in options)


def persona_of(demographics: dict[str, Any]) -> Persona:
    """Returns the level of each of `personas.ATTRIBUTES`, None where the cell names none."""
    for name, level in demographics.items():
        known = LEVELS.get(name, {})
        if name != "country" and level is not None and str(level) not in known:
            raise expected(f"{name:.40}", level, " or ".join(known) or "no such key")
    return tuple(LEVELS[name].get(str(demographics.get(name))) for name in LEVELS)


def with_placeholder(text: str) -> str:
    """Returns the text with one spelling of the country's placeholder."""
    return PLACEHOLDER.sub(lambda found: COUNTRY + ("'s" if found[1] else ""), text.strip())


def alpha3(name: str) -> str:
    """Returns the code of a country named in words or as a slug; others as they are."""
    return COUNTRIES.get(name.strip().lower().replace(" ", "_"), name)
