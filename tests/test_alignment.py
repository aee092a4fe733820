"""Alignment scores: the distance, and the two ways to average it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from survey_tables import answered, persona_table, questions_of

from ace_jax.errors import InputError
from ace_jax.evaluation.alignment import (
    Distributions,
    alignment_distances,
    alignment_table,
    score_table,
    scored_cells,
)
from ace_jax.survey.personas import ATTRIBUTES

QUESTIONS = ("q1", "q2", "q3")
TOPICS = ("politics", "religion")


@st.composite
def two_distributions(draw):
    size = draw(st.integers(2, 11))
    weights = st.lists(st.integers(0, 1000), min_size=size, max_size=size).filter(any)
    return tuple(np.array(draw(weights), float) for _ in range(2))


@given(st.lists(two_distributions(), min_size=1, max_size=6))
def test_distances_are_scipys_over_positions(rows):
    rows = [tuple(p / p.sum() for p in pair) for pair in rows]
    expected = [
        wasserstein_distance(np.arange(len(p)), np.arange(len(p)), p, q) / (len(p) - 1)
        for p, q in rows
    ]
    one, other = (Distributions.of(pd.Series([pair[i] for pair in rows])) for i in range(2))
    assert alignment_distances(one, other) == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.fixture
def predictions():
    """Two countries, one of which lacks a question; all granularities."""
    draws = np.random.default_rng(0)
    table = persona_table(["EGY", "USA"], QUESTIONS, (1, 2, 3, 4))
    table = table[(table["country"] != "EGY") | (table["question_id"] != "q1")]
    truth, model = draws.dirichlet(np.ones(4), (2, len(table)))
    return answered(table.reset_index(drop=True), truth, model, draws)


@pytest.fixture
def cells(predictions):
    return scored_cells(predictions, questions_of(predictions, TOPICS), ATTRIBUTES)


def test_cells_say_what_their_personas_name(cells):
    assert cells["combination"].nunique() == 15
    finest = cells[cells["granularity"] == 4]
    assert finest["persona"].iloc[0] == "Male/College Educated/Urban/Married"
    assert set(finest["combination"]) == {"gender+education+residence+marital_status"}
    coarsest = cells[cells["granularity"] == 1].drop_duplicates("persona")
    assert coarsest["persona"].tolist()[:3] == ["Male", "Female", "College Educated"]
    assert cells["topic"].tolist() == [
        {"q1": "politics", "q2": "politics", "q3": "religion"}[q] for q in cells["question_id"]
    ]


def test_a_flat_mean_takes_cells_alike(cells):
    table = alignment_table(cells, "flat").set_index(["granularity", "country"])
    by_hand = cells.groupby(["granularity", "country"])["score"].mean()
    assert table["score"].drop("ALL", level=1).to_dict() == pytest.approx(by_hand.to_dict())
    overall = by_hand.groupby("granularity").mean()
    assert table["score"].xs("ALL", level=1).to_dict() == pytest.approx(overall.to_dict())
    assert table["n_cells"].xs(2).to_dict() == {"EGY": 48, "USA": 72, "ALL": 120}
    assert table["n_questions"].xs(2).to_dict() == {"EGY": 2, "USA": 3, "ALL": 3}


def test_a_nested_mean_takes_files_alike(cells):
    table = alignment_table(cells, "nested").set_index(["granularity", "country"])["score"]
    files = cells.groupby(["granularity", "country", "combination", "topic"])["score"].mean()
    by_hand = files.groupby(["granularity", "country"]).mean()
    assert table.drop("ALL", level=1).to_dict() == pytest.approx(by_hand.to_dict())
    overall = by_hand.groupby("granularity").mean()
    assert table.xs("ALL", level=1).to_dict() == pytest.approx(overall.to_dict())
    flat = alignment_table(cells, "flat").set_index(["granularity", "country"])["score"]
    assert abs(table - flat).max() > 0.5


def test_scores_by_topic(cells):
    table = alignment_table(cells, "nested", ("topic",))
    by_hand = cells.groupby(["granularity", "topic", "country"])["score"].mean()
    of_countries = table[table["country"] != "ALL"]
    key = ["granularity", "topic", "country"]
    assert of_countries.set_index(key)["score"].to_dict() == pytest.approx(by_hand.to_dict())
    assert table["country"].tolist()[:3] == ["EGY", "USA", "ALL"]


def test_a_ceiling_is_averaged_as_scores_are(cells):
    cells = cells.assign(ceiling=np.linspace(90, 98, len(cells)))
    table = alignment_table(cells, "nested")
    as_score = alignment_table(cells.assign(score=cells["ceiling"]), "nested")
    assert table["ceiling"].tolist() == pytest.approx(as_score["score"].tolist())
    percent = 100 * table["score"] / table["ceiling"]
    assert table["percent_of_ceiling"].tolist() == pytest.approx(percent.tolist())


def test_one_granularity_and_one_country_are_enough(cells):
    one = cells[(cells["granularity"] == 4) & (cells["country"] == "USA")]
    for average in ("nested", "flat"):
        country, overall = alignment_table(one, average).to_dict("records")
        assert country["score"] == pytest.approx(overall["score"])


def test_the_table_of_evaluate_is_flat_and_in_0_to_1(predictions):
    table = score_table(predictions)
    columns = ["country", "granularity", "n_cells", "n_questions", "score", "ci_low", "ci_high"]
    assert table.columns.tolist() == columns
    assert table["country"].tolist() == 4 * ["EGY", "USA", "ALL"]
    assert table["n_questions"].tolist() == 4 * [2, 3, 3]
    by_hand = predictions.groupby(["granularity", "country"])["score"].mean()
    of_countries = table[table["country"] != "ALL"].set_index(["granularity", "country"])
    assert of_countries["score"].to_dict() == pytest.approx(by_hand.to_dict())
    assert (table["ci_low"] < table["score"]).all()
    assert (table["score"] < table["ci_high"]).all()


def test_questions_of_another_survey_are_refused(predictions):
    others = pd.DataFrame({"question_id": ["q1", "q2"], "topic": "politics"})
    with pytest.raises(InputError, match="no topic for question 'q3'"):
        scored_cells(predictions, others, ATTRIBUTES)
