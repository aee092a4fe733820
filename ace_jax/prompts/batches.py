"""Prompts to arrays of fixed shapes: trie rows, scored edges, endpoints and pairs.

Shapes: R rows of N nodes, S scored nodes and E edges a row, C cells of up to K options, Q pairs.
A few row lengths and rounded counts keep the number of distinct shapes, and so of compilations,
small. Padding is inert: a padding node sees only itself, a padding edge adds to no option, a
padding pair has weight 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ace_jax.errors import InputError
from ace_jax.prompts.encode import Prompt
from ace_jax.prompts.trie import Tokens, Trie, build_trie, pack


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scoring:
    """What the likelihood of every option of C cells needs.

    An option of m tokens is m edges. An edge is the token that follows a node; its log-probability
    is added to its target, cell * K + option (Eq. 2).
    """

    tokens: Int[Array | np.ndarray, "R N"]
    depth: Int[Array | np.ndarray, "R N"]
    tin: Int[Array | np.ndarray, "R N"]
    tout: Int[Array | np.ndarray, "R N"]
    scored: Int[Array | np.ndarray, "R S"]
    """Nodes with edges; 0 as padding."""
    edge_slot: Int[Array | np.ndarray, "R E"]
    """Index into `scored`."""
    edge_token: Int[Array | np.ndarray, "R E"]
    edge_target: Int[Array | np.ndarray, "R E"]
    """cell * K + option; C * K as padding."""
    option_mask: Bool[Array | np.ndarray, "C K"]
    """Which options a cell's question has; a padding cell has one."""

    @property
    def nodes(self) -> int:
        """Distinct tokens: trie nodes without padding (which sits at depth 0 behind the first)."""
        return int((self.depth > 0).sum() + (self.depth[:, 0] == 0).sum())


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Targets:
    """What the survey says about C cells, and the Q pairs among them."""

    p_data: Float[Array | np.ndarray, "C K"]
    mode: Int[Array | np.ndarray, "C"]
    pairs: Int[Array | np.ndarray, "Q 2"]
    """Indices of the endpoints A=0 and A=1."""
    pair_weight: Float[Array | np.ndarray, "Q"]


@dataclass(frozen=True)
class Shapes:
    """The fixed sizes that batches are padded to.

    Attributes:
      row_lengths: allowed numbers of nodes a row, ascending.
      row_multiple: the number of rows is a multiple of it (the devices that rows are spread over).
      options: K.
    """

    row_lengths: tuple[int, ...]
    row_multiple: int
    options: int

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
    return _round_up(-(-rows // multiple)) * multiple


def _round_up(count: int) -> int:
    """Returns the next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: at most half again."""
    power = 1 << max(0, (count - 1).bit_length())
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power


def _fill(
    prompts: Sequence[Prompt], tries: list[Trie], length: int, shapes: Shapes, cells: int
) -> Scoring:
    node_of = {
        path: (row, node) for row, trie in enumerate(tries) for path, node in trie.ends.items()
    }
    edges: list[dict[tuple[int, int, int], None]] = [{} for _ in tries]
    for cell, prompt in enumerate(prompts):
        for option, tokens in enumerate(prompt.options):
            for cut, token in enumerate(tokens):
                row, node = node_of[prompt.tokens + tokens[:cut]]
                edges[row][node, token, cell * shapes.options + option] = None

    scored = [sorted({node for node, _, _ in row}) for row in edges]
    rows = _rows(len(tries), shapes.row_multiple)
    slots, width = (_round_up(max(map(len, part))) for part in (scored, edges))
    alone = np.arange(length, dtype=np.int32)
    layout = Scoring(
        tokens=np.zeros((rows, length), np.int32),
        depth=np.zeros((rows, length), np.int32),
        tin=np.tile(alone, (rows, 1)),
        tout=np.tile(alone + 1, (rows, 1)),
        scored=np.zeros((rows, slots), np.int32),
        edge_slot=np.zeros((rows, width), np.int32),
        edge_token=np.zeros((rows, width), np.int32),
        edge_target=np.full((rows, width), cells * shapes.options, np.int32),
        option_mask=np.zeros((cells, shapes.options), bool),
    )
    for row, trie in enumerate(tries):
        nodes = len(trie.tokens)
        layout.tokens[row, :nodes] = trie.tokens
        layout.depth[row, :nodes] = trie.depth
        layout.tout[row, :nodes] = trie.tout
        layout.scored[row, : len(scored[row])] = scored[row]
        slot_of = {node: slot for slot, node in enumerate(scored[row])}
        for edge, (node, token, target) in enumerate(edges[row]):
            layout.edge_slot[row, edge] = slot_of[node]
            layout.edge_token[row, edge] = token
            layout.edge_target[row, edge] = target
    layout.option_mask[:, 0] = True
    for cell, prompt in enumerate(prompts):
        layout.option_mask[cell, : len(prompt.options)] = True
    return layout
