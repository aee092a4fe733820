from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ace_jax.errors import InputError
from ace_jax.prompts.batches import Shapes, scoring
from ace_jax.prompts.encode import Prompt

LENGTHS = (8, 16, 64)
TOKENS = st.integers(1, 4)
# Options of several tokens, of other lengths than their neighbours, and prefixes of each other.
LABELS = st.lists(
    st.lists(TOKENS, min_size=1, max_size=3).map(tuple), min_size=2, max_size=4, unique=True
).map(tuple)
PROMPTS = st.lists(
    st.tuples(st.lists(TOKENS, min_size=1, max_size=6).map(tuple), LABELS), min_size=1, max_size=9
)
MULTIPLES = st.sampled_from([1, 2, 3, 8])


def lay_out(prompts, multiple=1, cells=12):
    """Lays out (tokens, options) for up to 12 cells of up to 4 options."""
    shapes = Shapes(LENGTHS, multiple, options=4, block=4)
    return scoring([Prompt(*prompt) for prompt in prompts], shapes, cells)


def way(batch, row, node):
    tin, tout = batch.tin[row], batch.tout[row]
    return [k for k in range(len(tin)) if tin[k] <= tin[node] < tout[k]]


def edges_of(batch):
    """(cell, option, tokens up to and with the edge's), read off the arrays; with their counts."""
    found = Counter()
    options = batch.option_mask.shape[1]
    for row, edge in zip(*np.nonzero(batch.edge_target < batch.option_mask.size), strict=True):
        nodes = way(batch, row, batch.scored[row, batch.edge_slot[row, edge]])
        assert batch.depth[row, nodes].tolist() == list(range(len(nodes)))
        tokens = (*batch.tokens[row, nodes].tolist(), int(batch.edge_token[row, edge]))
        found[(*divmod(int(batch.edge_target[row, edge]), options), tokens)] += 1
    return found


@given(PROMPTS, MULTIPLES)
@settings(deadline=None)
def test_edges_are_every_token_of_every_option_exactly_once(prompts, multiple):
    assert edges_of(lay_out(prompts, multiple)) == Counter(
        (cell, option, tokens + label[: cut + 1])
        for cell, (tokens, options) in enumerate(prompts)
        for option, label in enumerate(options)
        for cut in range(len(label))
    )


@given(PROMPTS, MULTIPLES)
@settings(deadline=None)
def test_shapes_are_few(prompts, multiple):
    batch = lay_out(prompts, multiple)
    rows, length = batch.tokens.shape
    assert length in LENGTHS
    assert rows % multiple == 0
    slots, edges = batch.scored.shape[1], batch.edge_token.shape[1]
    for count in (rows // multiple, slots, edges // slots):
        assert edges % slots == 0 and count & (count - 1) == 0
    for name in ("tokens", "depth", "tin", "tout"):
        assert getattr(batch, name).shape == (rows, length)
    for name in ("edge_slot", "edge_token", "edge_target"):
        assert getattr(batch, name).shape == batch.edge_token.shape
    assert batch.option_mask.shape == (12, 4)


@given(PROMPTS, MULTIPLES)
@settings(deadline=None)
def test_padding_is_inert(prompts, multiple):
    batch = lay_out(prompts, multiple)
    used = np.zeros(batch.tokens.shape, bool)
    for row, edge in zip(*np.nonzero(batch.edge_target < 48), strict=True):
        used[row, way(batch, row, batch.scored[row, batch.edge_slot[row, edge]])] = True
    assert batch.nodes == used.sum()
    # Padding nodes see something, but only each other; a padding edge lies out of range.
    for row, node in np.ndindex(used.shape):
        seen = way(batch, row, node)
        assert seen
        assert (used[row, seen] == used[row, node]).all()
    assert set(batch.edge_target[batch.edge_target >= 48].tolist()) <= {48}
    # Every index is one, also where it is padding.
    assert (batch.scored < batch.tokens.shape[1]).all()
    assert (batch.edge_slot < batch.scored.shape[1]).all()
    expected = [len(options) for _, options in prompts] + [1] * (12 - len(prompts))
    assert batch.option_mask.sum(axis=1).tolist() == expected


@given(PROMPTS, MULTIPLES)
@settings(deadline=None)
def test_a_blocks_stem_is_all_that_its_nodes_see_outside_it(prompts, multiple):
    batch = lay_out(prompts, multiple)
    rows, blocks, width = batch.stems.shape
    assert (width % 4, batch.tokens.shape) == (0, (rows, 4 * blocks))
    for row, node in zip(*np.nonzero(batch.tin >= 0), strict=True):
        start = node - node % 4
        outside = [seen for seen in way(batch, row, node) if seen < start]
        stem = batch.stems[row, node // 4]
        assert set(outside) <= set(stem[stem >= 0].tolist())
        if node == start:
            assert outside == stem[stem >= 0].tolist()


def test_shared_prompts_share_nodes():
    options = ((1,), (2, 2))
    batch = lay_out([((1, 2, 3), options), ((1, 2, 3), options), ((1, 2, 4), options)])
    assert batch.nodes == len(["1", "1 2", "1 2 3", "1 2 3 2", "1 2 4", "1 2 4 2"])


def test_empty_rows_have_no_nodes():
    assert lay_out([((1, 2), ((1,), (2,)))], multiple=4).nodes == 2


def test_rows_are_few_and_then_short():
    apart = [((1, first, 3, 3, 3, 3, 3, 3), ((1,), (2,))) for first in (1, 2)]  # 15 nodes together
    assert lay_out(apart[:1]).tokens.shape == (1, 8)
    assert lay_out(apart).tokens.shape == (1, 16)
    assert lay_out(apart, multiple=2).tokens.shape == (2, 8)
    assert lay_out([((1,) * 9, ((1,), (2,)))]).tokens.shape == (1, 16)
    many = [((first,) * 20, ((1,), (2,))) for first in range(1, 8)]  # three fit into a row of 64
    assert lay_out(many).tokens.shape == (4, 64)


def test_row_lengths_are_whole_blocks_or_halves():
    with pytest.raises(InputError, match=r"row_lengths: \(64, 100\) are not all multiples of 32"):
        Shapes((64, 100), 1, 4)
    shapes = Shapes((64, 96), 1, 4)
    assert (shapes.block_of(64), shapes.block_of(96)) == (64, 32)
    lengths = [scoring([Prompt((1,) * n, ((1,), (2,)))], shapes, 1).stems.shape for n in (60, 70)]
    assert lengths == [(1, 1, 0), (1, 3, 64)]


def test_a_prompt_longer_than_the_longest_row_is_refused():
    shapes = Shapes(LENGTHS, 1, options=4, block=4)
    fits = Prompt((1,) * 63, ((1, 2), (2,)))  # the node before the last token is the 64th
    shapes.check([fits])
    assert scoring([fits], shapes, 1).tokens.shape == (1, 64)
    too_long = Prompt((1,) * 64, ((1, 2), (2,)))
    with pytest.raises(InputError, match=r"row_lengths: the longest prompt has 65 .* row 64"):
        shapes.check([fits, too_long])
