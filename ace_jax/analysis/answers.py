"""What a model answers to prompts, and answers beside the survey's."""

from dataclasses import dataclass

import jax
import numpy as np
import pandas as pd
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float
from tqdm import tqdm

from ace_jax.analysis.alignment import alignment_distance
from ace_jax.model.sharding import place_scoring
from ace_jax.prompts.batches import Shapes, alike, scoring
from ace_jax.prompts.encode import Prompt
from ace_jax.training.step import ScoringStep


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

    def answers(self, prompts: list[Prompt], name: str) -> Answers:
        """Returns the answers to the prompts, in their order; `name` is shown as they come."""
        p: list[np.ndarray] = [np.empty(0)] * len(prompts)
        mass = np.empty(len(prompts))
        for rows in tqdm(alike(prompts, self.batch_size), unit="batch", desc=name):
            batch = scoring([prompts[row] for row in rows], self.shapes, self.batch_size)
            placed = place_scoring(batch, self.mesh)
            of_batch, mass_of_batch = jax.device_get(self.answer(self.lora, self.base, placed))
            mass[rows] = mass_of_batch[: len(rows)]
            for slot, row in enumerate(rows):
                p[row] = of_batch[slot, : len(prompts[row].options)].astype(np.float64)
        return Answers(p, mass)


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
