import numpy as np
import pandas as pd
import pytest

from ace_jax.errors import InputError
from ace_jax.survey.dataset import read_dataset
from ace_jax.survey.pairs import mode, toggle_pairs
from ace_jax.survey.personas import ATTRIBUTES, Attribute, personas

NAMES = [attribute.name for attribute in ATTRIBUTES]


def cells(contexts=(("USA", "q2"), ("MEX", "q1")), n=10):
    rows = [
        {"country": country, "question_id": question_id, "n": n, **persona}
        # Personas outside: a context's cells are scattered over the table.
        for granularity in (1, 4)
        for persona in personas(ATTRIBUTES, granularity)
        for country, question_id in contexts
    ]
    return pd.DataFrame(rows)


def test_every_finest_cell_is_paired_along_every_attribute():
    table = cells()
    pairs = toggle_pairs(table, ATTRIBUTES, min_n=10)
    assert len(pairs) == 2 * 32
    assert pairs["context"].tolist() == [0] * 32 + [1] * 32
    assert pairs["country"].tolist() == ["USA"] * 32 + ["MEX"] * 32
    treated = {attribute.name: attribute.levels for attribute in ATTRIBUTES}
    for pair in pairs.itertuples():
        zero, one = table.iloc[pair.cell_0], table.iloc[pair.cell_1]
        assert (zero[pair.attribute], one[pair.attribute]) == treated[pair.attribute]
        others = ["country", "question_id", *(name for name in NAMES if name != pair.attribute)]
        assert zero[others].tolist() == one[others].tolist()
        assert (zero["country"], zero["question_id"]) == (pair.country, pair.question_id)


def test_positions_do_not_depend_on_the_index():
    table = cells()
    shifted = table.set_index(np.arange(len(table)) + 1000)
    pd.testing.assert_frame_equal(
        toggle_pairs(shifted, ATTRIBUTES, min_n=10), toggle_pairs(table, ATTRIBUTES, min_n=10)
    )


def test_both_ends_need_min_n():
    table = cells(contexts=[("USA", "q1")])
    table.loc[len(table) - 1, "n"] = 9
    pairs = toggle_pairs(table, ATTRIBUTES, min_n=10)
    assert len(pairs) == 32 - 4
    assert len(table) - 1 not in set(pairs["cell_0"]) | set(pairs["cell_1"])
    assert len(toggle_pairs(table, ATTRIBUTES, min_n=9)) == 32


def test_no_pairs_is_an_error_that_counts():
    with pytest.raises(InputError, match=r"no pair among 48 cells: none that name .* n >= 11"):
        toggle_pairs(cells(), ATTRIBUTES, min_n=11)
    with pytest.raises(InputError, match="no pair among 0 cells"):
        toggle_pairs(cells().iloc[:0], ATTRIBUTES, min_n=10)


def test_the_embedded_survey_has_704_pairs_without_abortion():
    gss = read_dataset("gss2018")
    pairs = toggle_pairs(gss.cells, ATTRIBUTES, min_n=10)
    topic = pairs["question_id"].map(gss.questions.set_index("question_id")["topic"])
    assert ((topic != "Abortion").sum(), (topic == "Abortion").sum()) == (704, 224)


def test_three_levels_are_toggled_two_by_two():
    own = (Attribute("age", ("Young", "Middle", "Old")), Attribute("gender", ("Male", "Female")))
    rows = [
        {"country": "USA", "question_id": "q1", "n": 10, **persona} for persona in personas(own, 2)
    ]
    table = pd.DataFrame(rows)
    pairs = toggle_pairs(table, own, min_n=10)
    toggled = [
        (pair.attribute, table[pair.attribute][pair.cell_0], table[pair.attribute][pair.cell_1])
        for pair in pairs.itertuples()
    ]
    assert sorted(toggled) == sorted(
        [("age", *levels) for levels in [("Young", "Middle"), ("Young", "Old"), ("Middle", "Old")]]
        * 2
        + [("gender", "Male", "Female")] * 3
    )


def test_the_mode_breaks_ties_towards_the_lower_option():
    assert mode(np.array([0.2, 0.4, 0.4])) == 1


def test_countries_are_toggled_between_equal_personas_and_questions():
    table = cells(contexts=[(country, q) for country in ("USA", "MEX", "FRA") for q in "ab"])
    pairs = toggle_pairs(table, ATTRIBUTES, min_n=10, countries=True)
    between = pairs[pairs["attribute"] == "country"]
    assert len(between) == 2 * 3 * 16  # questions, pairs of countries, personas
    for pair in between.itertuples():
        zero, one = table.iloc[pair.cell_0], table.iloc[pair.cell_1]
        assert zero[["question_id", *NAMES]].equals(one[["question_id", *NAMES]])
        assert (zero["country"], one["country"]) == (pair.country, pair.country_1)
        assert pair.country < pair.country_1
    within = pairs[pairs["attribute"] != "country"].drop(columns="context")
    alone = toggle_pairs(table, ATTRIBUTES, min_n=10).drop(columns="context")
    order = ["attribute", "cell_0"]
    pd.testing.assert_frame_equal(
        within.sort_values(order, ignore_index=True), alone.sort_values(order, ignore_index=True)
    )


def test_coarser_cells_are_paired_where_they_name_the_same_attributes():
    table = cells(contexts=[("USA", "q1")])
    pairs = toggle_pairs(table, ATTRIBUTES, min_n=10, granularity=1)
    assert pairs["attribute"].tolist() == NAMES
    named = table[NAMES].notna()
    zero, one = (named.iloc[pairs[f"cell_{end}"]].reset_index(drop=True) for end in (0, 1))
    assert zero.equals(one)
    assert (zero.sum(axis=1) == 1).all()
    with pytest.raises(InputError, match="none that name 2 of gender"):
        toggle_pairs(table, ATTRIBUTES, min_n=10, granularity=2)
