"""The stream of training batches: which pairs a step sees, laid out for the device."""

from dataclasses import dataclass

import grain
import numpy as np
import pandas as pd
from jaxtyping import Int

from ace_jax.prompts.batches import Scoring, Shapes, Targets, scoring
from ace_jax.prompts.encode import Prompt
from ace_jax.recipe import Batch
from ace_jax.training.examples import Examples


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
    """The pairs table cut into what is shuffled: single pairs, or groups of whole contexts.

    Attributes:
      rows: rows of the pairs table, one array a unit.
      size: units a batch.
    """

    rows: list[Int[np.ndarray, "_"]]
    size: int

    @classmethod
    def cut(cls, examples: Examples, batch: Batch) -> "Units":
        """Cuts the pairs into what `batch.size` counts: pairs, or contexts.

        With `batch.neighbours`, contexts of one country whose prompts begin alike stay together,
        and so share a trie.
        """
        pairs = examples.pairs
        rows = np.arange(len(pairs))
        if batch.unit == "pair":
            return cls(list(rows[:, None]), batch.size)
        starts = np.flatnonzero(np.diff(pairs["context"].to_numpy(), prepend=-1))
        contexts = np.split(rows, starts[1:])
        texts = [examples.prompts[cell].text for cell in pairs["cell_0"].iloc[starts]]
        groups = _neighbours(pairs["country"].iloc[starts], texts, batch.neighbours)
        grouped = [np.concatenate([contexts[number] for number in group]) for group in groups]
        return cls(grouped, batch.size // batch.neighbours)

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
      examples: what is learned from.
      prompts: its prompts, tokenised.
      shapes: sizes that batches are padded to.
      max_pairs: Q; C is twice as many, or the number of endpoints there are if that is less.
    """

    examples: Examples
    prompts: list[Prompt]
    shapes: Shapes
    max_pairs: int

    @property
    def max_cells(self) -> int:
        """C: endpoints are shared, so at most two a pair and never more than there are."""
        return min(2 * self.max_pairs, len(self.prompts))

    def __call__(self, units: list[np.ndarray]) -> TrainingBatch:
        """Lays out the pairs of some units; each endpoint is computed once."""
        rows = np.concatenate(units)
        pairs = self.examples.pairs
        ends = [pairs[name].to_numpy()[rows] for name in ("cell_0", "cell_1")]
        endpoints = np.stack(ends, axis=1)
        cells, index = np.unique(endpoints, return_inverse=True)
        layout = scoring([self.prompts[cell] for cell in cells], self.shapes, self.max_cells)
        targets = Targets(
            p_data=np.zeros((self.max_cells, self.shapes.options), np.float32),
            mode=np.zeros(self.max_cells, np.int32),
            pairs=np.zeros((self.max_pairs, 2), np.int32),
            pair_weight=np.zeros(self.max_pairs, np.float32),
        )
        for slot, cell in enumerate(cells):
            answer = self.examples.answers[cell]
            targets.p_data[slot, : len(answer)] = answer
            targets.mode[slot] = self.examples.modes[cell]
        targets.pairs[: len(rows)] = index.reshape(-1, 2)
        targets.pair_weight[: len(rows)] = pairs["weight"].to_numpy()[rows]
        return TrainingBatch(layout, targets, rows)


def _neighbours(countries: pd.Series, texts: list[str], size: int) -> list[list[int]]:
    """Groups contexts, each given by its country and a prompt, in groups of up to `size`.

    In alphabetical order a prompt stands beside those it shares most with. The groups are in the
    order of their first contexts.
    """
    groups: list[list[int]] = []
    for country in countries.unique():
        contexts = np.flatnonzero(countries == country)
        ordered = sorted(contexts.tolist(), key=texts.__getitem__)
        groups += [sorted(ordered[start : start + size]) for start in range(0, len(ordered), size)]
    return sorted(groups)


def training_batches(
    units: Units, collate: Collate, epochs: int, shuffle: bool, seed: int
) -> grain.DatasetIterator:
    """Returns a checkpointable iterator over all epochs' batches, each epoch in its own order."""
    source = grain.MapDataset.source(units.rows).seed(seed)
    ordered = source.shuffle() if shuffle else source
    batches = ordered.batch(units.size, batch_fn=list).repeat(epochs).map(collate)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
