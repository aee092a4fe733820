"""The stream of training batches: which pairs a step sees, laid out for the device."""

from dataclasses import dataclass

import grain
import numpy as np
import pandas as pd
from jaxtyping import Int

from ace_jax.errors import InputError, check_positive
from ace_jax.prompts.batches import Scoring, Shapes, Targets, scoring
from ace_jax.prompts.encode import Prompt
from ace_jax.survey.pairs import mode

UNITS = ("pair", "context")


@dataclass(frozen=True)
class TrainingBatch:
    """One step's data.

    Attributes:
      scoring: prompts and options.
      targets: the survey's answers and the pairs.
      rows: which rows of the pairs table these are, to name the batch by.
    """

    scoring: Scoring
    targets: Targets
    rows: Int[np.ndarray, "Q"]


@dataclass(frozen=True)
class Units:
    """The pairs table cut into what a batch is counted in: single pairs or whole contexts.

    Attributes:
      rows: rows of the pairs table, one array a unit.
      size: units a batch.
    """

    rows: list[Int[np.ndarray, "_"]]
    size: int

    @classmethod
    def cut(cls, pairs: pd.DataFrame, unit: str, size: int) -> "Units":
        """Cuts the table of `survey.pairs.toggle_pairs`.

        Raises `InputError` for an unknown unit or a size below one.
        """
        if unit not in UNITS:
            raise InputError(f"batch.unit: {unit!r} is not one of {', '.join(UNITS)}")
        check_positive("batch.size", size)
        rows = np.arange(len(pairs))
        if unit == "pair":
            return cls(list(rows[:, None]), size)
        starts = np.flatnonzero(np.diff(pairs["context"].to_numpy())) + 1
        return cls(np.split(rows, starts), size)

    @property
    def max_pairs(self) -> int:
        """The most pairs that a batch can have."""
        return sum(sorted(map(len, self.rows), reverse=True)[: self.size])

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return -(-len(self.rows) // self.size)


@dataclass(frozen=True)
class Collate:
    """Rows of the pairs table to arrays of fixed shapes.

    Attributes:
      pairs: the table.
      prompts: prompt by cell, for the cells that are endpoints.
      answers: the survey's distribution by cell.
      shapes: sizes that batches are padded to.
      max_pairs: Q; C is twice as many, or the number of endpoints there are if that is less.
    """

    pairs: pd.DataFrame
    prompts: dict[int, Prompt]
    answers: dict[int, np.ndarray]
    shapes: Shapes
    max_pairs: int

    @property
    def max_cells(self) -> int:
        """C: endpoints are shared, so at most two a pair and never more than there are."""
        return min(2 * self.max_pairs, len(self.prompts))

    def __call__(self, units: list[np.ndarray]) -> TrainingBatch:
        """Lays out the pairs of some units; each endpoint is computed once."""
        rows = np.concatenate(units)
        endpoints = self.pairs[["cell_0", "cell_1"]].to_numpy()[rows]
        cells, index = np.unique(endpoints, return_inverse=True)
        layout = scoring([self.prompts[cell] for cell in cells], self.shapes, self.max_cells)
        targets = Targets(
            p_data=np.zeros((self.max_cells, self.shapes.options), np.float32),
            mode=np.zeros(self.max_cells, np.int32),
            pairs=np.zeros((self.max_pairs, 2), np.int32),
            pair_weight=np.zeros(self.max_pairs, np.float32),
        )
        for slot, cell in enumerate(cells):
            answer = self.answers[cell]
            targets.p_data[slot, : len(answer)] = answer
            targets.mode[slot] = mode(answer)
        targets.pairs[: len(rows)] = index.reshape(-1, 2)
        targets.pair_weight[: len(rows)] = 1
        return TrainingBatch(layout, targets, rows)


def training_batches(
    units: Units, collate: Collate, epochs: int, shuffle: bool, seed: int
) -> grain.DatasetIterator:
    """Returns a checkpointable iterator over all epochs' batches, each epoch in its own order."""
    source = grain.MapDataset.source(units.rows).seed(seed)
    ordered = source.shuffle() if shuffle else source
    batches = ordered.batch(units.size, batch_fn=list).repeat(epochs).map(collate)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
