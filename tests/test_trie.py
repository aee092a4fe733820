from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ace_jax.prompts.trie import Sequences

# Few distinct tokens, so that sequences share prefixes and are prefixes of each other.
SEQUENCES = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple),
    min_size=1,
    max_size=25,
    unique=True,
).map(sorted)


def whole(sequences):
    return Sequences.of(sequences).trie(slice(None))


def prefixes(sequences):
    return {sequence[: cut + 1] for sequence in sequences for cut in range(len(sequence))}


def ancestors(trie, node):
    """The nodes that `node` may attend to, from the root down: itself last."""
    return [k for k in range(len(trie.tokens)) if trie.tin[k] <= trie.tin[node] < trie.tout[k]]


@given(SEQUENCES)
def test_a_sequence_is_the_way_from_the_root_to_its_end(sequences):
    trie = whole(sequences)
    for sequence, end in zip(sequences, trie.ends, strict=True):
        way = ancestors(trie, end)
        assert tuple(trie.tokens[way]) == sequence
        assert trie.depth[way].tolist() == list(range(len(sequence)))


@given(SEQUENCES)
def test_every_distinct_prefix_is_one_node(sequences):
    trie = whole(sequences)
    ways = [tuple(trie.tokens[ancestors(trie, node)]) for node in range(len(trie.tokens))]
    assert len(ways) == len(set(ways))
    assert set(ways) == prefixes(sequences)


@given(SEQUENCES, st.integers(6, 30))
def test_rows_hold_every_sequence_once_in_order_and_are_never_too_long(sequences, length):
    laid_out = Sequences.of(sequences)
    rows = laid_out.rows(length)
    assert [sequence for row in rows for sequence in sequences[row]] == sequences
    assert all(0 < len(prefixes(sequences[row])) <= length for row in rows)
    for row in rows:
        trie = laid_out.trie(row)
        assert len(trie.tokens) == len(prefixes(sequences[row]))
        assert len(trie.ends) == len(sequences[row])
    # A row is only begun where the sequence did not fit into the one before.
    for row, after in pairwise(rows):
        assert len(prefixes(sequences[row.start : after.start + 1])) > length


def test_the_example_of_the_docstring():
    trie = whole([(1, 2), (1, 2, 3), (1, 4)])
    assert trie.tokens.tolist() == [1, 2, 3, 4]
    assert trie.depth.tolist() == [0, 1, 2, 1]
    assert trie.tout.tolist() == [4, 3, 3, 4]
    assert trie.ends.tolist() == [1, 2, 3]
