"""Prompts to arrays of fixed shapes: trie rows, scored edges, endpoints and pairs.

Shapes: R rows of N nodes in B blocks of up to A ancestors, S scored nodes and E edges a row,
C cells of up to K options, Q pairs. A few row lengths and rounded counts keep the number of
distinct shapes, and so of compilations, small. Padding is inert: padding nodes (tin -1, tout 0) see
only each other, a padding edge adds to no option, a padding pair has weight 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from ace_jax.errors import InputError
from ace_jax.prompts.encode import Prompt
from ace_jax.prompts.trie import Sequences, Tokens, Trie

AnyArray = Any  # NumPy on the host, JAX on the device, a shape where a step is only compiled


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scoring:
    """What the likelihood of every option of C cells needs.

    An option of m tokens is m edges. An edge is the token that follows a node; its log-probability
    is added to its target, cell * K + option (Eq. 2).
    """

    tokens: Int[AnyArray, "R N"]
    depth: Int[AnyArray, "R N"]
    tin: Int[AnyArray, "R N"]
    tout: Int[AnyArray, "R N"]
    stems: Int[AnyArray, "R B A"]
    """The ancestors of each block's first node; -1 as padding. In depth-first order they are all
    that the block's nodes see outside the block."""
    scored: Int[AnyArray, "R S"]
    """Nodes with edges; 0 as padding."""
    edge_slot: Int[AnyArray, "R E"]
    """Index into `scored`."""
    edge_token: Int[AnyArray, "R E"]
    edge_target: Int[AnyArray, "R E"]
    """cell * K + option; C * K as padding."""
    option_mask: Bool[AnyArray, "C K"]
    """Which options a cell's question has; a padding cell has one."""

    @property
    def nodes(self) -> int:
        """Distinct tokens: trie nodes without padding."""
        return int((self.tin >= 0).sum())


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Targets:
    """What the survey says about C cells, and the Q pairs among them."""

    p_data: Float[AnyArray, "C K"]
    mode: Int[AnyArray, "C"]
    pairs: Int[AnyArray, "Q 2"]
    """Indices of the endpoints A=0 and A=1."""
    pair_weight: Float[AnyArray, "Q"]


@dataclass(frozen=True)
class Shapes:
    """The fixed sizes that batches are padded to.

    Raises `InputError` where there are no lengths, they do not ascend or are not whole half blocks.
    """

    row_lengths: tuple[int, ...]
    """Allowed numbers of nodes a row, ascending multiples of half a `block`."""
    row_multiple: int
    """The number of rows is a multiple of it (the devices that rows are spread over)."""
    options: int
    """K."""
    block: int = 64
    """N / B, the nodes that share one list of ancestors; half as many in rows of a half block."""

    def __post_init__(self) -> None:
        lengths = (0, *self.row_lengths)
        if lengths == (0,) or any(after <= before for before, after in pairwise(lengths)):
            raise InputError(
                f"batch.row_lengths: {self.row_lengths} is not a sequence of ascending lengths"
            )
        if any(length % (self.block // 2) for length in lengths):
            raise InputError(
                f"batch.row_lengths: {self.row_lengths} are not all multiples of {self.block // 2}"
            )

    def block_of(self, length: int) -> int:
        """Returns N / B of a row of some length.

        Whole blocks need fewer lists of ancestors, halves less padding where rows are short.
        """
        return self.block // 2 if length % self.block else self.block

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raises `InputError` where a prompt is longer than the longest row."""
        longest = max(len(path) for prompt in prompts for path in _paths(prompt))
        if longest > self.row_lengths[-1]:
            raise InputError(
                f"batch.row_lengths: the longest prompt has {longest} tokens, the longest row "
                f"{self.row_lengths[-1]}; add a longer row"
            )


def alike(prompts: Sequence[Prompt], size: int) -> list[list[int]]:
    """Returns the prompts' numbers in batches of at most `size`, those that begin alike together.

    What prompts of a batch share is computed once.
    """
    order = sorted(range(len(prompts)), key=lambda row: prompts[row].tokens)
    return [order[start : start + size] for start in range(0, len(order), size)]


def scoring(prompts: Sequence[Prompt], shapes: Shapes, cells: int) -> Scoring:
    """Lays out the prompts of up to `cells` cells as trie rows, as few and then as short as can be.

    Long rows share most; blocks keep their attention as cheap as that of short ones.
    """
    paths = sorted({path for prompt in prompts for path in _paths(prompt)})
    sequences = Sequences.of(paths)
    lengths = [length for length in shapes.row_lengths if length >= sequences.sizes.max()]
    multiple = shapes.row_multiple
    rows = _power_of_two(-(-len(sequences.rows(lengths[-1])) // multiple)) * multiple
    length, runs = next(
        (length, runs)
        for length in lengths
        if rows * length >= sequences.nodes and len(runs := sequences.rows(length)) <= rows
    )
    tries = [sequences.trie(run) for run in runs]
    place = {
        path: row * length + end
        for row, (run, trie) in enumerate(zip(runs, tries, strict=True))
        for path, end in zip(paths[run], trie.ends.tolist(), strict=True)
    }
    edges = np.array(
        [
            (place[prompt.tokens + label[:cut]], token, cell * shapes.options + option)
            for cell, prompt in enumerate(prompts)
            for option, label in enumerate(prompt.options)
            for cut, token in enumerate(label)
        ],
        np.int32,
    )
    option_mask = np.zeros((cells, shapes.options), bool)
    option_mask[:, 0] = True
    for cell, prompt in enumerate(prompts):
        option_mask[cell, : len(prompt.options)] = True
    return Scoring(
        **_nodes(tries, rows, length, shapes.block_of(length)),
        **_edges(edges, rows, length, option_mask),
        option_mask=option_mask,
    )


def _paths(prompt: Prompt) -> list[Tokens]:
    """Returns the sequences after which an option's tokens follow: the node of each edge."""
    return [prompt.tokens + option[:cut] for option in prompt.options for cut in range(len(option))]


def _power_of_two(count: int, least: int = 1) -> int:
    return max(least, 1 << (count - 1).bit_length())


def _nodes(tries: list[Trie], rows: int, length: int, block: int) -> dict[str, np.ndarray]:
    stems = [
        [np.flatnonzero(trie.tout[:start] > start) for start in range(0, len(trie.tokens), block)]
        for trie in tries
    ]
    longest = max(len(stem) for row in stems for stem in row)
    arrays = {
        "tokens": np.zeros((rows, length), np.int32),
        "depth": np.zeros((rows, length), np.int32),
        "tin": np.full((rows, length), -1, np.int32),
        "tout": np.zeros((rows, length), np.int32),
        "stems": np.full((rows, length // block, -(-longest // block) * block), -1, np.int32),
    }
    for row, trie in enumerate(tries):
        for name in ("tokens", "depth", "tin", "tout"):
            arrays[name][row, : len(trie.tokens)] = getattr(trie, name)
        for number, stem in enumerate(stems[row]):
            arrays["stems"][row, number, : len(stem)] = stem
    return arrays


def _edges(
    edges: Int[np.ndarray, "edges 3"], rows: int, length: int, option_mask: Bool[np.ndarray, "C K"]
) -> dict[str, np.ndarray]:
    """Lays out edges (row * length + node, token, target) by row."""
    place, token, target = edges[np.argsort(edges[:, 0] // length, kind="stable")].T
    row, distinct = place // length, np.unique(place)
    scored_row = distinct // length
    slot, number = _numbers(scored_row), _numbers(row)
    # Both are cheap to pad and every size more is a compilation more.
    slots = _power_of_two(int(slot.max()) + 1, least=16)
    width = _power_of_two(-(-(int(number.max()) + 1) // slots), least=option_mask.shape[1]) * slots
    arrays = {
        "scored": np.zeros((rows, slots), np.int32),
        "edge_slot": np.zeros((rows, width), np.int32),
        "edge_token": np.zeros((rows, width), np.int32),
        "edge_target": np.full((rows, width), option_mask.size, np.int32),
    }
    arrays["scored"][scored_row, slot] = distinct % length
    arrays["edge_slot"][row, number] = slot[np.searchsorted(distinct, place)]
    arrays["edge_token"][row, number] = token
    arrays["edge_target"][row, number] = target
    return arrays


def _numbers(row: Int[np.ndarray, "_"]) -> Int[np.ndarray, "_"]:
    """Numbers the entries of each row from 0; rows ascend."""
    return np.arange(len(row)) - np.searchsorted(row, row)
