"""Prefix trees of token sequences: what several prompts share is computed once.

Nodes stand in depth-first order, so a subtree is a run of nodes and node k is an ancestor of
node q (or q itself) iff  tin[k] <= tin[q] < tout[k].
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

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
    ends: dict[Tokens, int]


def shared_prefix(first: Tokens, second: Tokens) -> int:
    """Returns how many leading tokens two sequences share."""
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    )


def build_trie(sequences: Sequence[Tokens]) -> Trie:
    """Builds the prefix tree of distinct sequences given in lexicographic order.

    Example: (1, 2), (1, 2, 3), (1, 4) make the nodes 1 2 3 4 with depths 0 1 2 1.
    """
    tokens: list[int] = []
    depth: list[int] = []
    tout: list[int] = []
    ends: dict[Tokens, int] = {}
    path: list[int] = []  # the nodes from the root to the last one made
    previous: Tokens = ()
    for sequence in sequences:
        shared = shared_prefix(previous, sequence)
        for node in path[shared:]:
            tout[node] = len(tokens)
        del path[shared:]
        for token in sequence[shared:]:
            path.append(len(tokens))
            depth.append(len(path) - 1)
            tokens.append(token)
            tout.append(-1)
        ends[sequence] = path[-1]
        previous = sequence
    for node in path:
        tout[node] = len(tokens)
    return Trie(
        tokens=np.asarray(tokens, np.int32),
        depth=np.asarray(depth, np.int32),
        tin=np.arange(len(tokens), dtype=np.int32),
        tout=np.asarray(tout, np.int32),
        ends=ends,
    )


def pack(sequences: Sequence[Tokens], length: int) -> Iterator[list[Tokens]]:
    """Cuts lexicographically ordered sequences into rows of at most `length` nodes.

    Every sequence must be no longer than `length`.
    """
    row: list[Tokens] = []
    nodes = 0
    for sequence in sequences:
        new = len(sequence) - (shared_prefix(row[-1], sequence) if row else 0)
        if nodes + new > length:
            yield row
            row, nodes, new = [], 0, len(sequence)
        row.append(sequence)
        nodes += new
    if row:
        yield row
