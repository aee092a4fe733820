"""Prefix trees of token sequences: what several prompts share is computed once.

Nodes stand in depth-first order, so a subtree is a run of nodes and node k is an ancestor of
node q (or q itself) iff  tin[k] <= tin[q] < tout[k].

Shapes: S sequences of up to L tokens, N nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Int

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Trie:
    """One row: N nodes in depth-first order, and the node at which each sequence ends."""

    tokens: Int[np.ndarray, "N"]
    depth: Int[np.ndarray, "N"]
    tin: Int[np.ndarray, "N"]
    tout: Int[np.ndarray, "N"]
    ends: Int[np.ndarray, "S"]


@dataclass(frozen=True)
class Sequences:
    """Distinct token sequences in lexicographic order."""

    tokens: Int[np.ndarray, "S L"]
    """A row a sequence, -1 beyond its end."""
    sizes: Int[np.ndarray, "S"]
    shared: Int[np.ndarray, "S"]
    """How many leading tokens each shares with the one before it."""

    @classmethod
    def of(cls, ordered: Sequence[Tokens]) -> "Sequences":
        """Lays out sequences that are distinct, not empty and in lexicographic order."""
        sizes = np.fromiter(map(len, ordered), np.int32, len(ordered))
        inside = np.arange(sizes.max()) < sizes[:, None]
        tokens = np.full(inside.shape, -1, np.int32)
        tokens[inside] = np.fromiter(chain.from_iterable(ordered), np.int32, sizes.sum())
        # Where a sequence goes on after the one before has ended, -1 differs from its token.
        differs = tokens[1:] != tokens[:-1]
        shared = np.zeros(len(ordered), np.int32)
        shared[1:] = differs.argmax(axis=1)
        return cls(tokens, sizes, shared)

    @property
    def nodes(self) -> int:
        """How many nodes one trie of them all has."""
        return int((self.sizes - self.shared).sum())

    def rows(self, length: int) -> list[slice]:
        """Cuts them into runs whose tries have at most `length` nodes, each as long as fits.

        No sequence may be longer than `length`.
        """
        cuts, nodes = [0], 0
        for index, (size, shared) in enumerate(
            zip(self.sizes.tolist(), self.shared.tolist(), strict=True)
        ):
            nodes += size - shared
            if nodes > length:
                cuts.append(index)
                nodes = size
        return [slice(*ends) for ends in zip(cuts, [*cuts[1:], len(self.sizes)], strict=True)]

    def trie(self, rows: slice) -> Trie:
        """Builds the prefix tree of a run of sequences.

        Example: (1, 2), (1, 2, 3), (1, 4) make the nodes 1 2 3 4 with depths 0 1 2 1.
        """
        tokens, sizes, shared = self.tokens[rows], self.sizes[rows], self.shared[rows].copy()
        shared[0] = 0
        column = np.arange(tokens.shape[1])
        leaves = column >= shared[:, None]  # has left the path of the sequence before
        new = leaves & (column < sizes[:, None])
        after = np.cumsum(sizes - shared, dtype=np.int32)
        nodes = int(after[-1])
        # A subtree ends where the next sequence that leaves it begins.
        begins = np.full(tokens.shape, nodes, np.int32)
        begins[:-1] = np.where(leaves[1:], after[:-1, None], nodes)
        tout = np.minimum.accumulate(begins[::-1])[::-1]
        return Trie(
            tokens=tokens[new],
            depth=np.broadcast_to(column.astype(np.int32), new.shape)[new],
            tin=np.arange(nodes, dtype=np.int32),
            tout=tout[new],
            ends=after - 1,
        )
