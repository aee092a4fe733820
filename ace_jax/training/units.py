"""What a step sees: the rows of the pairs table, cut into units, in an order drawn each epoch."""

from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from ace_jax.errors import InputError
from ace_jax.recipe import Batch
from ace_jax.training.data import Collate, Examples, TrainingBatch

Rows = Int[np.ndarray, "_"]


@dataclass(frozen=True)
class Units:
    """The rows of the pairs table by unit, and how many units make a batch.

    A unit is a pair, a context, or a question with some of its countries. In the last case its
    personas name the same attributes, since no pair has others, and its countries are one of the
    groups into which each epoch divides those that were asked. It has the pairs within its group.
    """

    rows: list[Rows]
    size: int
    turned: int = 0
    """How many rows further on a pair has its options in the other order; 0: it never has."""
    groups: list[tuple[int, int]] | None = None
    """With the unit `question`: each unit's group, and into how many its question is divided."""
    countries: Int[np.ndarray, "pairs 2"] | None = None
    """With the unit `question`: the countries of both ends, as numbers from 0."""

    @classmethod
    def cut(cls, examples: Examples, batch: Batch) -> "Units":
        """Cuts the pairs into what `batch.size` counts: pairs, contexts or questions.

        With `batch.neighbours`, contexts of one country whose prompts begin alike stay together,
        and so share a trie: in alphabetical order a prompt stands beside those it shares most with.
        """
        pairs = examples.pairs
        turned = len(pairs) if len(examples.prompts) > len(examples.answers) else 0
        if batch.unit == "pair":
            return cls(list(np.arange(len(pairs))[:, None]), batch.size, turned)
        if batch.unit == "context":
            return cls(_contexts(examples, batch), batch.size // batch.neighbours, turned)
        ends = pairs[["country", "country_1" if "country_1" in pairs else "country"]].to_numpy()
        countries = np.unique(ends, return_inverse=True)[1].reshape(ends.shape)
        rows, groups = list[Rows](), list[tuple[int, int]]()
        keys = ["question_id", *({"named"} & set(pairs))]
        unit = pairs.groupby(keys, sort=False).ngroup().to_numpy()
        for each in range(unit.max() + 1):
            of = np.flatnonzero(unit == each)
            parts = -(-len(np.unique(countries[of])) // batch.countries)
            rows += [of] * parts
            groups += [(part, parts) for part in range(parts)]
        return cls(rows, batch.size, turned, groups, countries)

    def drawn(self, unit: int, epoch: int, seed: int) -> Rows:
        """Returns the rows of a unit in an epoch (from 0).

        Raises `InputError` if a question's group of countries has no pair.
        """
        rows = self.rows[unit]
        if self.groups is None or self.countries is None or self.groups[unit] == (0, 1):
            return rows
        group, parts = self.groups[unit]
        ends = self.countries[rows]
        present = np.unique(ends)
        of = np.empty(present.max() + 1, np.int64)
        shuffled = np.random.default_rng([seed, epoch, rows[0]]).permutation(present)
        of[shuffled] = np.arange(len(present)) % parts
        chosen = rows[(of[ends] == group).all(axis=1)]
        if not len(chosen):
            raise InputError(
                "batch.countries: a group of a question's countries has no pair; allow more"
            )
        return chosen

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return -(-len(self.rows) // self.size)

    @property
    def max_pairs(self) -> int:
        """The most pairs that a batch can have."""
        return sum(sorted(map(self._most_pairs, range(len(self.rows))), reverse=True)[: self.size])

    def _most_pairs(self, unit: int) -> int:
        rows = self.rows[unit]
        if self.groups is None or self.countries is None:
            return len(rows)
        ends, (_, parts) = self.countries[rows], self.groups[unit]
        most = -(-len(np.unique(ends)) // parts)
        of_countries, counts = np.unique(ends, axis=0, return_counts=True)
        within = of_countries[:, 0] == of_countries[:, 1]
        limits = ((within, most), (~within, most * (most - 1) // 2))
        return sum(int(np.sort(counts[which])[::-1][:limit].sum()) for which, limit in limits)


def training_batches(
    units: Units, collate: Collate, epochs: int, shuffle: bool, seed: int
) -> grain.DatasetIterator:
    """Returns a checkpointable iterator over all epochs' batches, each epoch in its own order.

    Where options are listed in both orders, each epoch draws one for every unit.
    """
    source = grain.MapDataset.source(range(len(units.rows))).seed(seed)
    ordered = source.shuffle() if shuffle else source
    drawn = ordered.random_map(lambda unit, draw: (unit, units.turned and draw.integers(2)))
    batches = drawn.batch(units.size, batch_fn=list).repeat(epochs)

    def laid_out(number: int, drawn: list[tuple[int, Any]]) -> TrainingBatch:
        epoch = number // units.steps_per_epoch
        return collate(
            [units.drawn(unit, epoch, seed) + units.turned * turn for unit, turn in drawn]
        )

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(batches.map_with_index(laid_out).to_iter_dataset(options))


def _contexts(examples: Examples, batch: Batch) -> list[Rows]:
    pairs = examples.pairs
    starts = np.flatnonzero(np.diff(pairs["context"].to_numpy(), prepend=-1))
    contexts = np.split(np.arange(len(pairs)), starts[1:])
    texts = [examples.prompts[cell].text for cell in pairs["cell_0"].iloc[starts]]
    groups: list[list[int]] = []
    countries = pairs["country"].to_numpy()[starts]
    for country in set(countries):
        ordered = sorted(np.flatnonzero(countries == country).tolist(), key=texts.__getitem__)
        cuts = range(0, len(ordered), batch.neighbours)
        groups += [sorted(ordered[first : first + batch.neighbours]) for first in cuts]
    return [np.concatenate([contexts[each] for each in group]) for group in sorted(groups)]
