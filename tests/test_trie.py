from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ace_jax.prompts.trie import build_trie, pack

# Few distinct tokens, so that sequences share prefixes and are prefixes of each other.
SEQUENCES = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple),
    min_size=1,
    max_size=25,
    unique=True,
).map(sorted)


def prefixes(sequences):
    return {sequence[: cut + 1] for sequence in sequences for cut in range(len(sequence))}


def ancestors(trie, node):
    """The nodes that `node` may attend to, from the root down: itself last."""
    return [k for k in range(len(trie.tokens)) if trie.tin[k] <= trie.tin[node] < trie.tout[k]]


@given(SEQUENCES)
def test_a_sequence_is_the_way_from_the_root_to_its_end(sequences):
    trie = build_trie(sequences)
    assert sorted(trie.ends) == sequences
    for sequence, end in trie.ends.items():
        way = ancestors(trie, end)
        assert tuple(trie.tokens[way]) == sequence
        assert trie.depth[way].tolist() == list(range(len(sequence)))


@given(SEQUENCES)
def test_every_distinct_prefix_is_one_node(sequences):
    trie = build_trie(sequences)
    ways = [tuple(trie.tokens[ancestors(trie, node)]) for node in range(len(trie.tokens))]
    assert len(ways) == len(set(ways))
    assert set(ways) == prefixes(sequences)


@given(SEQUENCES, st.integers(6, 30))
def test_rows_hold_every_sequence_once_in_order_and_are_never_too_long(sequences, length):
    rows = list(pack(sequences, length))
    assert [sequence for row in rows for sequence in row] == sequences
    assert all(0 < len(prefixes(row)) <= length for row in rows)
    # A row is only begun where the sequence did not fit into the one before.
    for row, after in pairwise(rows):
        assert len(prefixes([*row, after[0]])) > length


def test_the_example_of_the_docstring():
    trie = build_trie([(1, 2), (1, 2, 3), (1, 4)])
    assert trie.tokens.tolist() == [1, 2, 3, 4]
    assert trie.depth.tolist() == [0, 1, 2, 1]
    assert trie.tout.tolist() == [4, 3, 3, 4]
    assert trie.ends == {(1, 2): 1, (1, 2, 3): 2, (1, 4): 3}
