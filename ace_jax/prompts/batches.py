"""Prompts to arrays of fixed shapes: trie rows, scored edges, endpoints and pairs.

Shapes: R rows of N nodes, S scored nodes and E edges a row, C cells of up to K options, Q pairs.
A few row lengths and rounded counts keep the number of distinct shapes, and so of compilations,
small. Padding is inert: padding nodes (tin -1, tout 0) see only each other, a padding edge adds to
no option, a padding pair has weight 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ace_jax.errors import InputError
from ace_jax.prompts.encode import Prompt
from ace_jax.prompts.trie import Tokens, Trie, build_trie, pack

if TYPE_CHECKING:
    AnyArray = Any
else:  # NumPy on the host, JAX on the device
    AnyArray = Array | np.ndarray


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

    Attributes:
      row_lengths: allowed numbers of nodes a row, ascending.
      row_multiple: the number of rows is a multiple of it (the devices that rows are spread over).
      options: K.

    Raises `InputError` where there are no lengths or they do not ascend.
    """

    row_lengths: tuple[int, ...]
    row_multiple: int
    options: int

    def __post_init__(self) -> None:
        lengths = (0, *self.row_lengths)
        if lengths == (0,) or any(after <= before for before, after in pairwise(lengths)):
            raise InputError(
                f"batch.row_lengths: {self.row_lengths} is not a sequence of ascending lengths"
            )

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raises `InputError` where a prompt is longer than the longest row."""
        longest = max(len(path) for prompt in prompts for path in _paths(prompt))
        if longest > self.row_lengths[-1]:
            raise InputError(
                f"batch.row_lengths: the longest prompt has {longest} tokens, the longest row "
                f"{self.row_lengths[-1]}; add a longer row"
            )


def scoring(prompts: Sequence[Prompt], shapes: Shapes, cells: int) -> Scoring:
    """Lays out the prompts of up to `cells` cells as trie rows.

    Of the allowed row lengths the one with the fewest nodes, padding included, is taken.
    """
    paths = sorted({path for prompt in prompts for path in _paths(prompt)})
    longest = max(map(len, paths))
    layouts = (
        [build_trie(row) for row in pack(paths, length)]
        for length in shapes.row_lengths
        if length >= longest
    )
    lengths = (length for length in shapes.row_lengths if length >= longest)
    length, tries = min(
        zip(lengths, layouts, strict=True),
        key=lambda layout: layout[0] * _rows(len(layout[1]), shapes.row_multiple),
    )
    return _fill(prompts, tries, length, shapes, cells)


def _paths(prompt: Prompt) -> list[Tokens]:
    """Returns the sequences after which an option's tokens follow: the node of each edge."""
    return [prompt.tokens + option[:cut] for option in prompt.options for cut in range(len(option))]


def _rows(rows: int, multiple: int) -> int:
    return _power_of_two(-(-rows // multiple)) * multiple


def _power_of_two(count: int, least: int = 1) -> int:
    return max(least, 1 << (count - 1).bit_length())


def _fill(
    prompts: Sequence[Prompt], tries: list[Trie], length: int, shapes: Shapes, cells: int
) -> Scoring:
    node_of = {
        path: (row, node) for row, trie in enumerate(tries) for path, node in trie.ends.items()
    }
    edges: list[list[tuple[int, int, int]]] = [[] for _ in tries]
    for cell, prompt in enumerate(prompts):
        for option, label in enumerate(prompt.options):
            for cut, token in enumerate(label):
                row, node = node_of[prompt.tokens + label[:cut]]
                edges[row].append((node, token, cell * shapes.options + option))

    scored = [sorted({node for node, _, _ in row}) for row in edges]
    rows = _rows(len(tries), shapes.row_multiple)
    # Both are cheap to pad and every size more is a compilation more.
    slots = _power_of_two(max(map(len, scored)), least=16)
    width = _power_of_two(max(map(len, edges)), least=128)
    tokens = np.zeros((rows, length), np.int32)
    depth = np.zeros((rows, length), np.int32)
    tin = np.full((rows, length), -1, np.int32)
    tout = np.zeros((rows, length), np.int32)
    scored_nodes = np.zeros((rows, slots), np.int32)
    edge_slot = np.zeros((rows, width), np.int32)
    edge_token = np.zeros((rows, width), np.int32)
    edge_target = np.full((rows, width), cells * shapes.options, np.int32)
    for row, trie in enumerate(tries):
        nodes = len(trie.tokens)
        tokens[row, :nodes] = trie.tokens
        depth[row, :nodes] = trie.depth
        tin[row, :nodes] = trie.tin
        tout[row, :nodes] = trie.tout
        scored_nodes[row, : len(scored[row])] = scored[row]
        slot_of = {node: slot for slot, node in enumerate(scored[row])}
        for edge, (node, token, target) in enumerate(edges[row]):
            edge_slot[row, edge] = slot_of[node]
            edge_token[row, edge] = token
            edge_target[row, edge] = target

    option_mask = np.zeros((cells, shapes.options), bool)
    option_mask[:, 0] = True
    for cell, prompt in enumerate(prompts):
        option_mask[cell, : len(prompt.options)] = True
    return Scoring(
        tokens, depth, tin, tout, scored_nodes, edge_slot, edge_token, edge_target, option_mask
    )
