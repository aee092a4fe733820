import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ace_jax.errors import InputError
from ace_jax.survey.dataset import read_dataset
from ace_jax.survey.split import draw_questions, held_out_cells

QUESTIONS = [f"q{number}" for number in range(10)]
GSS = read_dataset("gss2018")


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "question",
        "question:",
        "question:0",
        "question:1",
        "question:nan",
        "question:0.2@",
        "region:0.2",
    ],
)
def test_other_specs_are_refused_with_the_known_ones(spec):
    with pytest.raises(InputError, match=f"data.holdout is '{spec}'; use none, question:SHARE"):
        held_out_cells(GSS, spec, 0)


def test_none_holds_nothing_out():
    assert not held_out_cells(GSS, "none", 0).any()


def test_the_lowest_hashes_are_held_out():
    held_out = draw_questions(QUESTIONS, "question:0.2", 7)
    assert len(held_out) == 2
    ranks = {name: hashlib.sha256(f"7:{name}".encode()).hexdigest() for name in QUESTIONS}
    assert held_out == set(sorted(QUESTIONS, key=ranks.get)[:2])
    assert draw_questions(QUESTIONS, "question:0.2", 8) != held_out
    assert draw_questions(QUESTIONS, "question:0.2@7", 8) == held_out  # whatever the run's seed


@given(st.permutations(QUESTIONS), st.floats(0.01, 0.9), st.integers(0, 99))
def test_a_draw_does_not_depend_on_order(shuffled, share, seed):
    held_out = draw_questions(shuffled, f"question:{share}", seed)
    assert len(held_out) == max(1, round(share * 10))
    assert held_out == draw_questions(QUESTIONS, f"question:{share}", seed)


def test_a_share_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match="all 1 questions"):
        draw_questions(["q1"], "question:0.5", 0)


def test_questions_are_held_out_with_all_their_cells():
    held_out = held_out_cells(GSS, "question:0.3", 0)
    drawn = draw_questions(list(GSS.questions["question_id"]), "question:0.3", 0)
    np.testing.assert_array_equal(held_out, GSS.cells["question_id"].isin(drawn))


def test_topics_and_countries():
    topic = GSS.cells["question_id"].map(GSS.questions.set_index("question_id")["topic"])
    some = sorted(set(topic))[:2]
    np.testing.assert_array_equal(
        held_out_cells(GSS, f"topic:{'+'.join(some)}", 0), topic.isin(some)
    )
    assert held_out_cells(GSS, "country:USA", 0).all()


def test_personas_are_held_out_where_all_is_named():
    cells = GSS.cells
    one = (
        (cells["gender"] == "Female")
        & (cells["education"] == "College Educated")
        & (cells["residence"] == "Urban")
        & (cells["marital_status"] == "Married")
    )
    other = (
        (cells["gender"] == "Male")
        & (cells["education"] == "Not College Educated")
        & (cells["residence"] == "Rural")
        & (cells["marital_status"] == "Not Married")
    )
    assert one.sum() == other.sum() == len(GSS.questions)
    np.testing.assert_array_equal(held_out_cells(GSS, "persona:paper", 0), one | other)
    spec = "persona:Female/College Educated/Urban/Married"
    np.testing.assert_array_equal(held_out_cells(GSS, spec, 0), one)


@pytest.mark.parametrize("value", ["topic:Weather", "country:FRA", "persona:Female", "topic:"])
def test_a_name_that_the_dataset_lacks_is_refused(value):
    name = value.partition(":")[2]
    with pytest.raises(InputError, match=f"{value}: the dataset has no '{name}'; it has .* such"):
        held_out_cells(GSS, value, 0)
