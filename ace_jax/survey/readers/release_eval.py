"""The cells that the authors of ACE-Align released, `data/eval`. Their pairs: `release_train`.

docs/surveys.md ("The authors' release") says what the files hold and what becomes of it.
"""

import hashlib
import sys
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
from ace_jax.survey.codebook import Question
from ace_jax.survey.dataset import Dataset, cell_schema, question_table
from ace_jax.survey.manifest import COMPLETE
from ace_jax.survey.personas import ATTRIBUTES
from ace_jax.survey.readers.release_format import (
    COUNTRIES,
    LEVELS,
    Labels,
    Persona,
    field,
    option_numbers,
    parse_json,
    persona_of,
    shares,
    whole_number,
    with_placeholder,
)
from ace_jax.survey.story import count_cells

CELL_FILES = "*/[1-4]_attributes/*/*.json"
COUNT_TOLERANCE = 1e-6

Wording = tuple[str, tuple[int, ...], Labels]


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
    Raises InputError, with the file and the cell's place in it, for what is not of this form.
    """
    files = sorted(directory.glob(CELL_FILES), key=lambda path: path.as_posix())
    if not files:
        raise InputError(
            f"{directory} has no COUNTRY/{{1,2,3,4}}_attributes/ATTRIBUTES/CATEGORY_real.json; "
            "give the authors' data/eval directory"
        )
    cells: list[_Cell] = []
    before = _Before({}, set())
    digest = hashlib.sha256()
    for path in files:
        content = _content(path)
        name = path.relative_to(directory).as_posix()
        digest.update(f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode())
        cells += _cells(content, path, before)
    answered = [cell for cell in cells if cell.answered]
    if not answered:
        raise InputError(f"{directory}: nobody answered any of its {len(cells)} cells; add others")
    questions = _questions(answered)
    inputs = {"name": directory.resolve().name, "files": len(files), "sha256": digest.hexdigest()}
    table = _table(answered, questions)
    manifest = _manifest(cells, questions) | {"inputs": [inputs]}
    manifest["counts"] |= count_cells(table, ATTRIBUTES)
    return Dataset(question_table(questions.values()), table, manifest)


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

    @property
    def answered(self) -> bool:
        return self.n > 0 and any(self.p)

    @property
    def of_whole_counts(self) -> bool:
        counts = (share * self.n for share in self.p)
        return all(abs(count - round(count)) <= COUNT_TOLERANCE for count in counts)


@dataclass(frozen=True)
class _Before:
    """What the cells so far had."""

    asked: dict[tuple[str, str], Wording]
    personas: set[tuple[str, str, Persona]]

    def enter(self, cell: _Cell) -> None:
        """Enters a cell; raises InputError where it contradicts or repeats one."""
        question = (cell.country, cell.question_id)
        if self.asked.setdefault(question, cell.wording) != cell.wording:
            raise InputError(
                f"question {cell.question_id} has another text or other options than before in "
                f"{cell.country}; give each question of a country an id of its own"
            )
        if (*question, cell.persona) in self.personas:
            named = ", ".join(level for level in cell.persona if level is not None)
            raise InputError(
                f"{cell.question_id} for {named} in {cell.country} is there before; remove one"
            )
        self.personas.add((*question, cell.persona))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _cells(content: bytes, path: Path, before: _Before) -> list[_Cell]:
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
            before.enter(cell)
        except InputError as error:
            raise InputError(f"{path}, cell {place}: {error}") from None
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
        category=sys.intern(category),
        question_id=sys.intern(f"{category}:{field(entry, 'question_id', str)}"),
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


def _manifest(
    cells: Sequence[_Cell], questions: Mapping[tuple[str, Wording], Question]
) -> dict[str, Any]:
    answered = [cell for cell in cells if cell.answered]
    named = [(plain, question.question_id) for (plain, _), question in questions.items()]
    return {
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
        "counts": {
            "questions": len(questions),
            "cells": len(answered),
            "cells_without_answers": len(cells) - len(answered),
            "cells_not_of_whole_counts": sum(not cell.of_whole_counts for cell in answered),
        },
        "estimator": "raw",
    }
