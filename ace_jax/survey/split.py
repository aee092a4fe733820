"""What training must not see (`data.holdout`).

none
question:0.2                      a share of the questions, drawn by the seed
question:0.2@7                    a share drawn by 7, whatever the seed
topic:Security+Religious values   the questions of some topics
country:EGY+ETH                   some countries
persona:Female/College Educated/Urban/Married+...
                                  some full personas, levels in the attributes' order
persona:paper                     the paper's two (section 4.2, RQ2)
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import pandas as pd
from jaxtyping import Bool

from ace_jax.errors import InputError
from ace_jax.survey.dataset import Dataset

PAPER_PERSONAS = (
    "Female/College Educated/Urban/Married",
    "Male/Not College Educated/Rural/Not Married",
)


def held_out_cells(dataset: Dataset, spec: str, seed: int) -> Bool[np.ndarray, "cells"]:
    """Returns which cells training must not see; a pair is out with either of its endpoints.

    A persona that is held out is so only where all its attributes are named.
    Raises InputError for a spec that is not known, that names something the dataset does not
    have, or that leaves no question to train on.
    """
    cells = dataset.cells
    unit, _, value = spec.partition(":")
    if spec == "none":
        return np.zeros(len(cells), bool)
    if unit == "question":
        ids = draw_questions(list(dataset.questions["question_id"]), spec, seed)
        return cells["question_id"].isin(ids).to_numpy()
    if unit == "topic":
        topic = cells["question_id"].map(dataset.questions.set_index("question_id")["topic"])
        return _among(topic, value.split("+"), spec)
    if unit == "country":
        return _among(cells["country"], value.split("+"), spec)
    if unit == "persona":
        names = [attribute.name for attribute in dataset.attributes]
        persona = cells[names[0]].str.cat(cells[names[1:]], sep="/")
        return _among(persona, PAPER_PERSONAS if value == "paper" else value.split("+"), spec)
    raise _unknown(spec)


def held_out_pairs(pairs: pd.DataFrame, spec: str, seed: int) -> Bool[np.ndarray, "pairs"]:
    """Returns which pairs of the authors' training file training must not see.

    Raises InputError as `held_out_cells` does, and for topics and personas, which the file does
    not name.
    """
    unit, _, value = spec.partition(":")
    if spec == "none":
        return np.zeros(len(pairs), bool)
    if unit == "question":
        ids = draw_questions(sorted(pairs["question_id"].unique()), spec, seed)
        return pairs["question_id"].isin(ids).to_numpy()
    if unit == "country":
        return _among(pairs["country"], value.split("+"), spec)
    if unit in ("topic", "persona"):
        raise InputError(
            f"data.holdout {spec}: the authors' training file names no {unit}; "
            "hold out questions or countries"
        )
    raise _unknown(spec)


def draw_questions(question_ids: Sequence[str], spec: str, seed: int) -> set[str]:
    """Returns the questions that `question:SHARE` or `question:SHARE@SEED` holds out, at least one.

    Which they are depends on the ids, the share and the seed alone, not on their order or on the
    machine. Raises InputError for a share that is none or leaves nothing to train on.
    """
    value, at, own = spec.removeprefix("question:").partition("@")
    try:
        share, seed = float(value), int(own) if at else seed
    except ValueError:
        raise _unknown(spec) from None
    if not 0 < share < 1:
        raise _unknown(spec)
    count = max(1, round(share * len(question_ids)))
    if count >= len(question_ids):
        raise InputError(
            f"data.holdout {spec} holds out all {len(question_ids)} questions; use a smaller share"
        )
    return set(sorted(question_ids, key=lambda name: _rank(name, seed))[:count])


def _rank(question_id: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{question_id}".encode()).hexdigest()


def _among(column: pd.Series, values: Sequence[str], spec: str) -> Bool[np.ndarray, "cells"]:
    known = sorted(column.dropna().unique())
    for value in values:
        if value not in known:
            near = get_close_matches(value, known, 1) or known[:1]
            raise InputError(
                f"data.holdout {spec}: the dataset has no {value!r}; it has {len(known)} others, "
                f"such as {', '.join(near)}"
            )
    return column.isin(values).to_numpy()


def _unknown(spec: str) -> InputError:
    return InputError(
        f"data.holdout is {spec!r}; use none, question:SHARE or question:SHARE@SEED with "
        "0 < SHARE < 1, topic:NAME, country:CODE, persona:LEVEL/LEVEL/... or persona:paper "
        "(several joined by +)"
    )


@dataclass(frozen=True)
class HeldOut:
    """PLACEHOLDER."""

    questions: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    personas: tuple[str, ...] = ()

    def cells(self, dataset: Dataset) -> Bool[np.ndarray, "cells"]:
        """Placeholder."""
        cells = dataset.cells
        names = [attribute.name for attribute in dataset.attributes]
        persona = cells[names[0]].str.cat(cells[names[1:]], sep="/")
        return (
            cells["question_id"].isin(self.questions)
            | cells["country"].isin(self.countries)
            | persona.isin(self.personas)
        ).to_numpy()

    def describe(self) -> str:
        """Placeholder."""
        return f"{self.questions}{self.countries}{self.personas} held out"


@dataclass(frozen=True)
class Split:
    """PLACEHOLDER."""

    spec: str = "none"
    seed: int = 0

    @classmethod
    def questions(cls, share: float, seed: int = 0) -> "Split":
        """Placeholder."""
        return cls(f"question:{share}", seed)

    def held_out(self, dataset: Dataset) -> HeldOut:
        """Placeholder."""
        out = dataset.cells[held_out_cells(dataset, self.spec, self.seed)]
        if self.spec.startswith(("question", "topic")):
            return HeldOut(questions=tuple(sorted(out["question_id"].unique())))
        if self.spec.startswith("country"):
            return HeldOut(countries=tuple(sorted(out["country"].unique())))
        if self.spec == "none":
            return HeldOut()
        names = [attribute.name for attribute in dataset.attributes]
        persona = out[names[0]].str.cat(out[names[1:]], sep="/")
        return HeldOut(personas=tuple(sorted(persona.dropna().unique())))

    def held_out_of_pairs(self, pairs: pd.DataFrame) -> Bool[np.ndarray, "pairs"]:
        """Placeholder."""
        return held_out_pairs(pairs, self.spec, self.seed)
