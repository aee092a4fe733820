import jax
import numpy as np
import pandas as pd
import pytest

from ace_jax.errors import InputError
from ace_jax.prompts.batches import Shapes
from ace_jax.prompts.encode import Prompt
from ace_jax.training.pipeline import Collate, Units, training_batches

# Three contexts; the cells of one are paired in a chain.
ENDS = [(0, 1), (1, 2), (2, 3), (10, 11), (11, 12), (20, 21), (21, 22), (22, 23), (23, 24)]
PAIRS = pd.DataFrame(ENDS, columns=["cell_0", "cell_1"]).assign(context=[0] * 3 + [1] * 2 + [2] * 4)
CELLS = sorted({cell for ends in ENDS for cell in ends})
ANSWERS = {cell: np.array([1.0, cell, 2.0]) / (3 + cell) for cell in CELLS}


def batches(unit, size, epochs=2, shuffle=True, seed=0):
    units = Units.cut(PAIRS, unit, size)
    prompts = {cell: Prompt((1, 2, cell), ((3,), (4,), (5, 5))) for cell in CELLS}
    collate = Collate(PAIRS, prompts, ANSWERS, Shapes((8, 64), 1, 3), units.max_pairs)
    return training_batches(units, collate, epochs, shuffle, seed), units.steps_per_epoch


def rows_by_epoch(unit, size, **options):
    data, steps = batches(unit, size, **options)
    rows = [batch.rows.tolist() for batch in data]
    epochs = [rows[start : start + steps] for start in range(0, len(rows), steps)]
    return [[row for batch in epoch for row in batch] for epoch in epochs]


@pytest.mark.parametrize(
    ("unit", "size"), [("pair", 1), ("pair", 4), ("context", 1), ("context", 2)]
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_every_pair_once(unit, size, shuffle):
    epochs = rows_by_epoch(unit, size, epochs=3, shuffle=shuffle)
    assert len(epochs) == 3
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(PAIRS)))


def test_a_context_stays_together():
    data, _ = batches("context", 1, epochs=1)
    assert sorted(batch.rows.tolist() for batch in data) == [[0, 1, 2], [3, 4], [5, 6, 7, 8]]


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = rows_by_epoch("pair", 4)
    assert first != second
    assert rows_by_epoch("pair", 4) == [first, second]
    assert rows_by_epoch("pair", 4, seed=1) != [first, second]


def test_without_shuffling_the_order_is_kept():
    assert rows_by_epoch("pair", 4, shuffle=False) == [list(range(9))] * 2
    assert rows_by_epoch("context", 2, shuffle=False) == [list(range(9))] * 2


@pytest.mark.parametrize(("unit", "size", "most"), [("pair", 4, 4), ("context", 2, 7)])
def test_batches_are_padded_to_one_shape_with_weight_0(unit, size, most):
    data, _ = batches(unit, size)
    for batch in data:
        targets, count = batch.targets, len(batch.rows)
        assert targets.pairs.shape == (most, 2)
        assert targets.pair_weight.tolist() == [1] * count + [0] * (most - count)
        assert batch.scoring.option_mask.shape == targets.p_data.shape
        # Pairs point at their own endpoints, A=0 first, each of which is there once.
        ends = [tuple(cells) for cells in PAIRS.loc[batch.rows, ["cell_0", "cell_1"]].to_numpy()]
        used = targets.pairs[:count]
        assert len(np.unique(used)) == len({cell for cells in ends for cell in cells})
        for slots, cells in zip(used, ends, strict=True):
            for slot, cell in zip(slots, cells, strict=True):
                np.testing.assert_allclose(targets.p_data[slot], ANSWERS[cell], rtol=1e-6)
                assert targets.mode[slot] == np.argmax(ANSWERS[cell])


def test_the_last_batch_is_the_smaller_one():
    data, steps = batches("pair", 4)
    assert steps == 3
    assert [len(batch.rows) for batch in data] == [4, 4, 1] * 2


@pytest.mark.parametrize("taken", [0, 2, 3, 5])
def test_a_restored_iterator_goes_on_where_it_was(taken):
    data, _ = batches("pair", 4)
    for _ in range(taken):
        next(data)
    state, rest = data.get_state(), list(data)
    again, _ = batches("pair", 4)
    again.set_state(state)
    assert len(rest) == 6 - taken
    for one, other in zip(rest, again, strict=True):
        arrays = (jax.tree.leaves((batch.scoring, batch.targets)) for batch in (one, other))
        for array, same in zip(*arrays, strict=True):
            np.testing.assert_array_equal(array, same)
        assert one.rows.tolist() == other.rows.tolist()


def test_what_a_batch_is_counted_in_must_be_known():
    with pytest.raises(InputError, match=r"batch\.unit: 'cell' is not one of pair, context"):
        Units.cut(PAIRS, "cell", 1)
    with pytest.raises(InputError, match=r"batch\.size: 0 is not"):
        Units.cut(PAIRS, "pair", 0)
