"""What a model answers to prompts, and answers beside the survey's."""

import threading
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass

import jax
import numpy as np
import pandas as pd
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float

from ace_jax.evaluation.alignment import alignment_distance
from ace_jax.evaluation.partial import Partial, SoFar
from ace_jax.likelihood import ScoringStep
from ace_jax.model.sharding import place_scoring
from ace_jax.prompts.batches import Shapes, alike, scoring
from ace_jax.prompts.encode import Prompt
from ace_jax.runtime.processes import Agreement, leads, leave_if
from ace_jax.runtime.progress import progress


@dataclass(frozen=True)
class Answers:
    """Answers to some cells, in their order.

    Attributes:
      p: the distribution over each question's options, float64.
      option_mass: probability on the options before renormalising; 1 where no model answered.
    """

    p: list[Float[np.ndarray, "_"]]
    option_mass: Float[np.ndarray, "cells"]


@dataclass(frozen=True)
class Respondent:
    """A model that is ready to be asked.

    Attributes:
      answer: the compiled step (`make_scoring_step`).
      lora: the adapter's parameters; empty for a base model.
      base: the frozen parameters.
      mesh: where they lie.
      shapes: sizes that batches are padded to.
      batch_size: prompts that share a trie.
    """

    answer: ScoringStep
    lora: nnx.State
    base: nnx.State
    mesh: Mesh
    shapes: Shapes
    batch_size: int

    def ask(
        self, prompts: Mapping[str, list[Prompt]], partial: Partial, stop: threading.Event
    ) -> dict[str, Answers]:
        """Returns the answers to the prompts, in their order, under the names these have.

        What `partial` has is not asked again, and it gets what is answered every so often. Where
        any process was asked to stop, all end after the same batch (`leave_if`).

        Raises `InputError` where `partial` cannot be read or written.
        """
        batches = self._batches(prompts)
        asked = [prompt for named in prompts.values() for prompt in named]
        so_far = partial.restore(SoFar.none(len(asked), self.shapes.options))
        agreement, stopped = Agreement(self.mesh), False
        with (
            closing(progress("evaluate", "batch", so_far.batches, len(batches)))
            if leads()
            else nullcontext()
        ) as shown:
            for rows in batches[so_far.batches :]:
                start = time.perf_counter()
                wishes = agreement(stop.is_set(), partial.is_late())
                self._answer(rows, asked, so_far)
                if shown:
                    speed = len(rows) / (time.perf_counter() - start)
                    shown.show(so_far.batches, f"{speed:.1f} cells/s")
                stopped, late = np.asarray(wishes).tolist()
                if stopped or late or so_far.batches == len(batches):
                    partial.keep(so_far)
                if stopped:
                    break
        leave_if(stopped, f"after batch {so_far.batches} of {len(batches)}")
        return _by_name(prompts, so_far)

    def _batches(self, prompts: Mapping[str, list[Prompt]]) -> list[list[int]]:
        """Returns batches of prompts, numbered through; of one name each."""
        batches, first = [], 0
        for named in prompts.values():
            batches += [[first + row for row in rows] for rows in alike(named, self.batch_size)]
            first += len(named)
        return batches

    def _answer(self, rows: list[int], asked: list[Prompt], so_far: SoFar) -> None:
        """Asks the next batch."""
        batch = scoring([asked[row] for row in rows], self.shapes, self.batch_size)
        placed = place_scoring(batch, self.mesh)
        p, mass = jax.device_get(self.answer(self.lora, self.base, placed))
        so_far.p[rows], so_far.option_mass[rows] = p[: len(rows)], mass[: len(rows)]
        so_far.batches += 1


def _by_name(prompts: Mapping[str, list[Prompt]], so_far: SoFar) -> dict[str, Answers]:
    """Returns the answers under the names of their prompts, without what pads them."""
    answers, first = {}, 0
    for name, named in prompts.items():
        rows = slice(first, first + len(named))
        p = [
            values[: len(prompt.options)].astype(np.float64)
            for values, prompt in zip(so_far.p[rows], named, strict=True)
        ]
        answers[name] = Answers(p, so_far.option_mass[rows].astype(np.float64))
        first += len(named)
    return answers


def predictions_table(cells: pd.DataFrame, answers: Answers) -> pd.DataFrame:
    """Returns the columns of predictions.parquet: cells and answers, their distance and score."""
    predictions = cells.rename(columns={"p": "p_data"}).assign(
        p_model=pd.Series(answers.p, cells.index, object), option_mass=answers.option_mass
    )
    distance = [
        alignment_distance(*pair)
        for pair in zip(predictions["p_data"], predictions["p_model"], strict=True)
    ]
    return predictions.assign(distance=distance, score=1 - np.asarray(distance))
