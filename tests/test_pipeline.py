from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest

from ace_jax.errors import InputError
from ace_jax.prompts.batches import Shapes
from ace_jax.prompts.encode import Prompt, PromptText
from ace_jax.recipe import Batch
from ace_jax.survey.pairs import mode, toggle_pairs
from ace_jax.survey.personas import ATTRIBUTES, personas
from ace_jax.training.data import Collate, Examples
from ace_jax.training.units import Units, training_batches

# Three contexts; the cells of one are paired in a chain.
ENDS = [(0, 1), (1, 2), (2, 3), (10, 11), (11, 12), (20, 21), (21, 22), (22, 23), (23, 24)]
PAIRS = pd.DataFrame(ENDS, columns=["cell_0", "cell_1"]).assign(
    context=[0] * 3 + [1] * 2 + [2] * 4, country="CAN", weight=np.linspace(0.5, 1.5, 9)
)
CELLS = range(25)
ANSWERS = [np.array([1.0, cell, 2.0]) / (3 + cell) for cell in CELLS]
MODES = [mode(answer) for answer in ANSWERS]
QUESTIONS = ["How old are you?", "When do you vote?", "How tall are you?"]  # a context each
TEXTS = [PromptText(QUESTIONS[cell // 10], ("1", "2", "3")) for cell in CELLS]
EXAMPLES = Examples(PAIRS, TEXTS, ANSWERS, MODES)


def batches(unit, size, epochs=2, shuffle=True, seed=0, neighbours=1):
    units = Units.cut(EXAMPLES, Batch(unit, size, neighbours, (64,)))
    prompts = [Prompt((1, 2, cell), ((3,), (4,), (5, 5))) for cell in CELLS]
    collate = Collate(EXAMPLES, prompts, Shapes((64, 128), 1, 3), units.max_pairs)
    return training_batches(units, collate, epochs, shuffle, seed), units.steps_per_epoch


def rows_by_epoch(unit, size, **options):
    data, steps = batches(unit, size, **options)
    rows = [batch.rows.tolist() for batch in data]
    epochs = [rows[start : start + steps] for start in range(0, len(rows), steps)]
    return [[row for batch in epoch for row in batch] for epoch in epochs]


@pytest.mark.parametrize(
    ("unit", "size", "neighbours"),
    [("pair", 1, 1), ("pair", 4, 1), ("context", 1, 1), ("context", 2, 1), ("context", 2, 2)],
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_every_pair_once(unit, size, neighbours, shuffle):
    epochs = rows_by_epoch(unit, size, epochs=3, shuffle=shuffle, neighbours=neighbours)
    assert len(epochs) == 3
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(PAIRS)))


def test_a_context_stays_together():
    data, _ = batches("context", 1, epochs=1)
    assert sorted(batch.rows.tolist() for batch in data) == [[0, 1, 2], [3, 4], [5, 6, 7, 8]]


def contexts_by_unit(countries, texts, size, neighbours):
    """Of one pair a context, which contexts stay together."""
    cells = range(len(texts))
    pairs = pd.DataFrame({"context": cells, "country": countries, "cell_0": cells, "cell_1": cells})
    examples = Examples(pairs, [PromptText(text, ()) for text in texts], [], [])
    units = Units.cut(examples, Batch("context", size, neighbours, (64,)))
    assert units.size == size // neighbours
    return [rows.tolist() for rows in units.rows]


def test_neighbours_are_questions_of_one_country_that_begin_alike():
    texts = ["How old?", "Do you vote?", "How tall?", "Do you read?", "Why?", "How far?"]
    assert contexts_by_unit(["CAN"] * 6, texts, 2, 2) == [[0, 5], [1, 3], [2, 4]]
    assert contexts_by_unit(["CAN"] * 6, texts, 8, 4) == [[0, 1, 3, 5], [2, 4]]
    countries = ["CAN", "CAN", "MEX", "MEX", "CAN", "MEX"]
    assert contexts_by_unit(countries, texts, 2, 2) == [[0, 1], [2], [3, 5], [4]]
    assert contexts_by_unit(countries, texts, 2, 1) == [[number] for number in range(6)]


def test_neighbours_meet_in_every_epoch_in_another_order():
    data, _ = batches("context", 2, epochs=8, neighbours=2)
    epochs = [batch.rows.tolist() for batch in data]
    alike, other = [0, 1, 2, 5, 6, 7, 8], [3, 4]
    assert {tuple(map(tuple, epoch)) for epoch in zip(epochs[::2], epochs[1::2], strict=True)} == {
        (tuple(alike), tuple(other)),
        (tuple(other), tuple(alike)),
    }


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
        weights = np.float32(PAIRS["weight"][batch.rows])
        assert targets.pair_weight.tolist() == [*weights, *[0] * (most - count)]
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


@pytest.mark.parametrize(
    ("unit", "size", "neighbours", "message"),
    [
        ("cell", 1, 1, r"batch\.unit: 'cell' is not known; did you mean context, pair, question"),
        ("pair", 0, 1, r"batch\.size: 0 is not"),
        ("context", 1, 0, r"batch\.neighbours: 0 is not"),
        ("context", 4, 3, r"batch\.size: 4 is no multiple of batch\.neighbours 3"),
        ("pair", 4, 2, r"batch\.neighbours: counts contexts; set batch\.unit=context"),
        ("question", 4, 2, r"batch\.neighbours: counts contexts; set batch\.unit=context"),
    ],
)
def test_batches_that_cannot_be_cut_are_refused(unit, size, neighbours, message):
    with pytest.raises(InputError, match=message):
        Units.cut(EXAMPLES, Batch(unit, size, neighbours, (64,)))


def test_each_epoch_draws_an_order_of_options_for_every_context():
    """A batch's rows are those of its context, all as given or all in the other order."""
    turned = [PromptText(text.text + "!", text.labels) for text in TEXTS]
    both = replace(EXAMPLES, prompts=EXAMPLES.prompts + turned)
    units = Units.cut(both, Batch("context", 1, 1, (64,)))
    doubled, prompts = both.doubled, [Prompt((1, cell), ((3,), (4,), (5,))) for cell in range(50)]
    collate = Collate(doubled, prompts, Shapes((64, 128), 1, 3), units.max_pairs)
    drawn = training_batches(units, collate, 40, shuffle=True, seed=0)
    orders = []
    for batch in drawn:
        order, rows = np.divmod(batch.rows, len(PAIRS))
        assert len(set(order.tolist())) == 1
        assert len(set(PAIRS["context"].iloc[rows])) == 1
        cells = doubled.pairs.iloc[batch.rows][["cell_0", "cell_1"]].to_numpy()
        assert (cells // len(ANSWERS) == order[0]).all()
        texts = [doubled.prompts[cell].text for cell in cells.flat]
        assert all(text.endswith("!") == bool(order[0]) for text in texts)
        first = batch.targets.p_data[batch.targets.pairs[0, 0]]
        np.testing.assert_allclose(first, ANSWERS[PAIRS["cell_0"].iloc[rows[0]]], rtol=1e-6)
        orders.append(order[0])
    assert len(orders) == 3 * 40
    assert 40 < sum(orders) < 80
    again = training_batches(units, collate, 40, shuffle=True, seed=0)
    assert [batch.rows[0] // len(PAIRS) for batch in again] == orders


def asked_in(countries, questions=("q1", "q2")):
    """The examples of a survey of one attribute, with pairs between countries."""
    levels = ATTRIBUTES[0].levels
    rows = [(country, q, level) for q in questions for country in countries for level in levels]
    cells = pd.DataFrame(rows, columns=["country", "question_id", ATTRIBUTES[0].name]).assign(n=10)
    pairs = toggle_pairs(cells, ATTRIBUTES[:1], min_n=10, countries=True).assign(weight=1.0)
    answers = [np.array([0.2, 0.3, 0.5])] * len(cells)
    texts = [PromptText(" ".join(row), ("1", "2", "3")) for row in rows]
    return cells, Examples(pairs, texts, answers, [2] * len(cells))


@pytest.mark.parametrize(("countries", "parts"), [(3, 1), (4, 1), (5, 2), (11, 3)])
def test_a_question_comes_with_groups_of_its_countries_drawn_anew_each_epoch(countries, parts):
    cells, examples = asked_in([chr(65 + each) * 3 for each in range(countries)])
    units = Units.cut(examples, Batch("question", 1, 1, (64,), countries=4))
    assert len(units.rows) == 2 * parts
    divided = []
    for epoch in range(4):
        groups = []
        for unit in range(len(units.rows)):
            pairs = examples.pairs.iloc[units.drawn(unit, epoch, seed=3)]
            assert pairs["question_id"].nunique() == 1
            ends = cells.iloc[np.unique(pairs[["cell_0", "cell_1"]])]
            group, size = tuple(sorted(set(ends["country"]))), ends["country"].nunique()
            assert size <= 4
            assert len(pairs) == size + 2 * size * (size - 1) // 2  # within, then two personas
            assert len(pairs) <= units.max_pairs
            groups.append((pairs["question_id"].iloc[0], group))
        for question in ("q1", "q2"):
            drawn = sorted(sum((group for q, group in groups if q == question), ()))
            assert drawn == sorted(set(cells["country"]))  # each country once an epoch
        divided.append(tuple(groups))
    assert (len(set(divided)) == 1) == (parts == 1)
    again = [units.drawn(unit, 3, seed=3).tolist() for unit in range(len(units.rows))]
    assert again == [units.drawn(unit, 3, seed=3).tolist() for unit in range(len(units.rows))]


def test_batches_of_questions_follow_their_epoch():
    _, examples = asked_in(["AAA", "BBB", "CCC", "DDD", "EEE"])
    units = Units.cut(examples, Batch("question", 3, 1, (64,), countries=3))
    prompts = [Prompt((1, 2, cell), ((3,), (4,), (5, 5))) for cell in range(20)]
    collate = Collate(examples, prompts, Shapes((64, 128), 1, 3), units.max_pairs)
    data = list(training_batches(units, collate, 2, shuffle=False, seed=0))
    assert len(data) == 2 * units.steps_per_epoch == 4
    for number, batch in enumerate(data):
        epoch, step = divmod(number, 2)
        of = range(3 * step, min(3 * step + 3, 4))
        expected = np.concatenate([units.drawn(unit, epoch, 0) for unit in of])
        assert batch.rows.tolist() == expected.tolist()


def test_a_group_of_countries_without_a_pair_is_refused():
    _, examples = asked_in(["AAA", "BBB", "CCC"], ("q1",))
    apart = examples.pairs.query("country != country_1")
    lonely = replace(examples, pairs=apart.reset_index(drop=True))
    units = Units.cut(lonely, Batch("question", 1, 1, (64,), countries=1))
    with pytest.raises(InputError, match=r"batch\.countries: .* has no pair; allow more"):
        units.drawn(0, 0, 0)


def test_a_unit_has_personas_that_name_the_same_attributes():
    """No pair is of personas that name others, so they share no unit."""
    rows = [
        {"country": country, "question_id": "q1", "n": 10, **persona}
        for country in ("AAA", "BBB", "CCC")
        for persona in personas(ATTRIBUTES, 1)
    ]
    pairs = toggle_pairs(
        pd.DataFrame(rows), ATTRIBUTES, min_n=10, granularity=1, countries=True
    ).assign(weight=1.0)
    texts = [PromptText("How?", ("1", "2", "3"))] * len(rows)
    examples = Examples(pairs, texts, [np.full(3, 1 / 3)] * len(rows), [0] * len(rows))
    units = Units.cut(examples, Batch("question", 1, 1, (64,), countries=3))
    named = [set(pairs.iloc[rows]["named"]) for rows in units.rows]
    assert named == [{1}, {2}, {4}, {8}]
    assert units.max_pairs == 3 + 2 * 3
