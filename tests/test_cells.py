from itertools import combinations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from ace_jax.survey.cells import aggregate
from ace_jax.survey.codebook import Question
from ace_jax.survey.personas import ATTRIBUTES

NAMES = [attribute.name for attribute in ATTRIBUTES]
QUESTIONS = (
    Question("mine", "q1", "Work", "?", (-1, 0, 1), ("Less", "Same", "More"), True),
    Question("mine", "q2", "Work", "?", (2, 1), ("Yes", "No"), False),
)


def made_of(rows):
    """Rows: country, a 0/1 level for each of the four attributes, q1, q2, weight."""
    frame = pd.DataFrame(rows, columns=["country", *NAMES, "q1", "q2", "weight"])
    frame = frame.astype({"q1": "float64", "q2": "float64", "weight": "float64"})
    for attribute in ATTRIBUTES:
        levels = frame[attribute.name].map(dict(enumerate(attribute.levels)))
        dtype = pd.CategoricalDtype(attribute.levels, ordered=True)
        frame[attribute.name] = levels.astype(dtype)
    return aggregate(frame, ATTRIBUTES, QUESTIONS)


def cell(cells, question_id, country="USA", **persona):
    named = [
        cells[name] == persona[name] if name in persona else cells[name].isna() for name in NAMES
    ]
    where = np.logical_and.reduce(
        [cells["question_id"] == question_id, cells["country"] == country, *named]
    )
    (row,) = cells[where].to_dict("records")
    return row


def test_hand_computed_cells():
    cells = made_of(
        [
            ("USA", 0, 0, 0, 0, -1, 2, 1.0),
            ("USA", 0, 0, 1, 0, 1, 2, 3.0),
            ("USA", 1, 0, 0, 0, 1, None, 2.0),
            ("USA", 1, 0, 0, 0, 1, None, 2.0),
            ("MEX", 0, 0, 0, 0, 0, 1, 1.0),
        ]
    )
    assert cells.columns.tolist() == [
        *("source", "country", "question_id", "granularity", *NAMES, "n", "effective_n", "p")
    ]
    men = cell(cells, "q1", gender="Male")
    assert (men["granularity"], men["n"], men["effective_n"]) == (1, 2, 16 / 10)
    np.testing.assert_array_equal(men["p"], [0.25, 0, 0.75])
    urban = cell(cells, "q1", residence="Urban", marital_status="Married")
    assert (urban["granularity"], urban["n"]) == (2, 3)
    assert urban["effective_n"] == 25 / 9
    np.testing.assert_allclose(urban["p"], [0.2, 0, 0.8])
    np.testing.assert_array_equal(cell(cells, "q1", "MEX", gender="Male")["p"], [0, 1, 0])
    # Options keep the codebook's order, not that of the codes.
    np.testing.assert_array_equal(cell(cells, "q2", gender="Male")["p"], [1, 0])
    # No woman answered q2: no cell.
    assert not ((cells["question_id"] == "q2") & (cells["gender"] == "Female")).any()


def test_a_question_that_nobody_answered_has_no_cells():
    cells = made_of([("USA", 0, 0, 0, 0, None, 2, 1.0)])
    assert (len(cells), set(cells["question_id"])) == (15, {"q2"})


answers = st.tuples(
    st.sampled_from(["USA", "MEX"]),
    *[st.integers(0, 1)] * 4,
    st.sampled_from([-1, 0, 1, None]),
    st.sampled_from([1, 2]),
    st.just(1.0),
)


@settings(max_examples=8, deadline=None)
@given(st.lists(answers, min_size=1, max_size=40))
def test_a_coarser_cell_is_the_n_weighted_mean_of_its_finer_cells(rows):
    cells = made_of(rows)
    assert (cells["granularity"] == cells[NAMES].notna().sum(axis=1)).all()
    assert (cells["effective_n"] == cells["n"]).all()
    finest = cells[cells["granularity"] == 4]
    compared = 0
    for granularity in (1, 2, 3):
        coarse = cells[cells["granularity"] == granularity].fillna({name: "" for name in NAMES})
        for chosen in combinations(NAMES, granularity):
            names = [*chosen]
            keys = ["question_id", "country", *names]
            these = coarse[(coarse[names] != "").all(axis=1)].set_index(keys)
            for key, finer in finest.groupby(keys):
                assert these.loc[key, "n"] == finer["n"].sum()
                mean = np.average(np.stack(finer["p"]), axis=0, weights=finer["n"])
                np.testing.assert_allclose(these.loc[key, "p"], mean, atol=1e-12)
                compared += 1
    assert compared == len(cells) - len(finest)
    assert finest.loc[finest["question_id"] == "q2", "n"].sum() == len(rows)
