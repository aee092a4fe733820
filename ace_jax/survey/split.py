"""What training must not see (`data.holdout`).

none
question:0.2                      a share of the questions, drawn by the seed
question:0.2@7                    a share drawn by 7, whatever the seed
question:natspac+abany            some questions, by id
topic:Security+Religious values   the questions of some topics
country:EGY+ETH                   some countries, or a share of them: country:0.2[@SEED]
persona:Female/College Educated/Urban/Married+...
                                  some full personas, levels in the attributes' order; * is any
                                  level: persona:*/*/Urban/Married
persona:paper                     the paper's two (section 4.2, RQ2); they differ in every
                                  attribute, so that no pair has both ends held out
fold:3/5[@SEED]                   fold 3 of the 5 into which the seed divides the questions
survey:gss2018                    all questions of a survey, where data.path names several

Several are joined by commas (`question:0.2,country:EGY`): a cell is held out if any of them says
so.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from ace_jax.errors import InputError
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.personas import Attribute

PAPER_PERSONAS = (
    "Female/College Educated/Urban/Married",
    "Male/Not College Educated/Rural/Not Married",
)
UNITS = ("question", "topic", "country", "persona", "fold", "survey")
OF_QUESTIONS = {"topic": "topic", "survey": "source"}  # units that are columns of questions
# A comma that no unit follows belongs to a name, such as a topic's.
BETWEEN_PARTS = re.compile(rf",(?=(?:{'|'.join(UNITS)}):)")
FOLD = re.compile(r"(\d+)/(\d+)(?:@(-?\d+))?")


@dataclass(frozen=True)
class HeldOut:
    """The ids that a split holds out, sorted; a cell is held out if any of the three says so.

    A persona is its levels joined by "/", in the order of the attributes. It holds out the cells
    that name all attributes.
    """

    questions: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    personas: tuple[str, ...] = ()

    def cells(self, dataset: Dataset) -> Bool[np.ndarray, "cells"]:
        """Returns which cells of a dataset are held out, by their ids alone."""
        cells = dataset.cells
        held_out = cells["question_id"].isin(self.questions)
        held_out |= cells["country"].isin(self.countries)
        if self.personas:
            held_out |= full_personas(cells, dataset.attributes).isin(self.personas)
        return held_out.to_numpy()

    def describe(self) -> str:
        """Returns one line for the screen: "2 questions held out: abany, natspac"."""
        names = ("question", "questions"), ("country", "countries"), ("persona", "personas")
        parts = (
            f"{len(ids)} {name[len(ids) > 1]} held out: {', '.join(ids)}"
            for name, ids in zip(names, astuple(self), strict=True)
            if ids
        )
        return "; ".join(parts) or "nothing held out"


@dataclass(frozen=True)
class Split:
    """What training must not see: a hold-out spec and the seed that draws its shares."""

    spec: str = "none"
    seed: int = 0

    @classmethod
    def questions(cls, share_or_ids: float | str | Sequence[str], seed: int = 0) -> "Split":
        """Holds out a share of the questions, or some by id."""
        ids = [str(share_or_ids)] if isinstance(share_or_ids, float | str) else share_or_ids
        return cls(f"question:{'+'.join(ids)}", seed)

    def held_out(self, dataset: Dataset) -> HeldOut:
        """Returns the ids that the split holds out of a dataset.

        Raises InputError for a spec that is not known, that names something the dataset does not
        have, or that leaves no question or country to train on.
        """
        questions = dataset.questions
        known = {
            "question": questions["question_id"],
            "country": dataset.cells["country"],
            "persona": full_personas(dataset.cells, dataset.attributes).dropna(),
            **{unit: questions[column] for unit, column in OF_QUESTIONS.items()},
        }
        groups = {
            unit: questions.groupby(column)["question_id"].agg(list).to_dict()
            for unit, column in OF_QUESTIONS.items()
        }
        return self._held_out(known, groups)

    def held_out_of_pairs(self, pairs: pd.DataFrame) -> Bool[np.ndarray, "pairs"]:
        """Returns which pairs of the authors' training file are held out.

        Raises InputError as `held_out` does, and for topics and personas, which the file does not
        name.
        """
        known = {"question": pairs["question_id"], "country": pairs["country"]}
        held_out = self._held_out(known, {})
        of_question = known["question"].isin(held_out.questions)
        return (of_question | known["country"].isin(held_out.countries)).to_numpy()

    def _held_out(
        self, columns: Mapping[str, pd.Series], groups: Mapping[str, Mapping[Any, list[str]]]
    ) -> HeldOut:
        found: dict[str, set[str]] = {"question": set(), "country": set(), "persona": set()}
        for part in [] if self.spec == "none" else BETWEEN_PARTS.split(self.spec):
            unit, colon, value = part.partition(":")
            kind = "question" if unit == "fold" else unit
            if unit not in UNITS or not colon:
                raise _unknown(part)
            if kind not in columns:
                raise InputError(
                    f"data.holdout {part}: the authors' training file names no {unit}; "
                    "hold out questions or countries"
                )
            known = list(columns[kind].unique())
            if unit == "fold":
                found[kind] |= _fold(part, known, self.seed)
            elif unit in OF_QUESTIONS:
                found["question"].update(*(groups[unit][name] for name in _named(part, known)))
            elif unit == "persona":
                names = list(PAPER_PERSONAS) if value == "paper" else value.split("+")
                every = "+".join(each for name in names for each in _matching(name, known))
                found[kind] |= _named(f"persona:{every}", known)
            else:
                found[kind] |= _drawn_or_named(part, known, self.seed)
        return HeldOut(*(tuple(sorted(names)) for names in found.values()))


def full_personas(cells: pd.DataFrame, attributes: tuple[Attribute, ...]) -> pd.Series:
    """Returns the persona of each cell, missing where it does not name every attribute."""
    first, *others = (attribute.name for attribute in attributes)
    return cells[first].str.cat(cells[others], sep="/") if others else cells[first]


def _drawn_or_named(part: str, known: Sequence[str], seed: int) -> set[str]:
    value = part.partition(":")[2]
    number, at, own = value.partition("@")
    try:
        share = float(number)
    except ValueError:
        return _named(part, known)
    if value in known:
        return {value}
    if not 0 < share < 1 or (at and not re.fullmatch(r"-?\d+", own)):
        raise _unknown(part)
    count = max(1, round(share * len(known)))
    if count >= len(known):
        raise InputError(
            f"data.holdout {part} holds out all {len(known)}; use a smaller share, or name them"
        )
    return set(_shuffled(known, int(own) if at else seed)[:count])


def _fold(part: str, known: Sequence[str], seed: int) -> set[str]:
    found = FOLD.fullmatch(part.removeprefix("fold:"))
    if found is None or not 1 <= int(found[1]) <= int(found[2]) or int(found[2]) < 2:
        raise _unknown(part)
    number, of = int(found[1]), int(found[2])
    if of > len(known):
        raise InputError(
            f"data.holdout {part}: there are {len(known)} questions; use as many folds or fewer"
        )
    return set(_shuffled(known, int(found[3] or seed))[number - 1 :: of])


def _shuffled(names: Sequence[str], seed: int) -> list[str]:
    """Returns the names in an order that depends on them and the seed, not on the machine."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())


def _named(part: str, known: Sequence[str]) -> set[str]:
    """Returns the names of a part, joined by +; a name may have a + in it."""
    unit, _, value = part.partition(":")
    pieces, names = value.split("+"), set[str]()
    while pieces:
        sizes = range(len(pieces), 0, -1)
        size = next((size for size in sizes if "+".join(pieces[:size]) in known), None)
        if size is None:
            near = get_close_matches(pieces[0], known, 1) or sorted(known)[:1]
            raise InputError(
                f"data.holdout {part}: the data have no {pieces[0]!r}; "
                f"the nearest {unit} of {len(known)} is {near[0] if near else 'none'}"
            )
        names.add("+".join(pieces[:size]))
        pieces = pieces[size:]
    return names


def _matching(name: str, known: Sequence[str]) -> list[str]:
    """Returns the personas that a name with `*` for levels stands for; itself without one."""
    pattern = re.compile("[^/]*".join(map(re.escape, name.split("*"))))
    return [each for each in known if "*" in name and pattern.fullmatch(each)] or [name]


def _unknown(part: str) -> InputError:
    return InputError(
        f"data.holdout is {part!r}; use none, question:SHARE[@SEED] with 0 < SHARE < 1, "
        "question:ID, topic:NAME, country:SHARE[@SEED], country:CODE, persona:LEVEL/LEVEL/..., "
        "persona:paper, fold:3/5[@SEED] or survey:NAME; join names by + and these by commas"
    )
