"""Scores and slopes by what training had not seen."""

import numpy as np
import pytest
from survey_tables import answered, persona_table

from ace_jax.evaluation.alignment import score_table
from ace_jax.evaluation.blocks import MODEL, block_of, block_table
from ace_jax.evaluation.slopes import products, slope_table
from ace_jax.evaluation.worth import squared_errors, worth_table
from ace_jax.survey.personas import ATTRIBUTES
from ace_jax.survey.split import HeldOut

HELD_OUT = HeldOut(questions=("q1",), countries=("DEU", "FRA"))


@pytest.fixture(scope="module")
def predictions():
    table = persona_table(("DEU", "FRA", "ITA", "POL"), ("q1", "q2", "q3"), granularities=(1, 4))
    truth, model = np.random.default_rng(0).dirichlet(np.ones(4), (2, len(table)))
    return answered(table, truth, 0.5 * truth + 0.5 * model, np.random.default_rng(1))


def table_of(predictions, min_n=10):
    flat = predictions.assign(p_model=[np.full(4, 0.25)] * len(predictions))
    return block_table({MODEL: [predictions], "uniform": [flat]}, HELD_OUT, ATTRIBUTES, min_n)


def test_a_cell_is_in_the_block_of_what_was_not_seen(predictions):
    block = block_of(predictions, HELD_OUT, ATTRIBUTES)
    for name, question, countries in (
        ("both unseen", ["q1"], ["DEU", "FRA"]),
        ("unseen questions", ["q1"], ["ITA", "POL"]),
        ("unseen countries", ["q2", "q3"], ["DEU", "FRA"]),
        ("seen", ["q2", "q3"], ["ITA", "POL"]),
    ):
        its = predictions[block == name]
        assert sorted(its["question_id"].unique()) == question
        assert sorted(its["country"].unique()) == countries


def test_a_persona_held_out_is_unseen_and_all_others_are_seen(predictions):
    one = ("Female", "College Educated", "Urban", "Married")
    block = block_of(predictions, HeldOut(personas=("/".join(one),)), ATTRIBUTES)
    names = [attribute.name for attribute in ATTRIBUTES]
    its = (predictions[names] == one).all(axis=1)
    assert its.sum() == 4 * 3
    assert (block[its] == "unseen personas").all() and (block[~its] == "seen").all()


def test_a_block_has_the_scores_and_slopes_of_its_cells_alone(predictions):
    table = table_of(predictions).set_index(["block", "granularity", "run"])
    assert len(table) == 4 * 2 * 2
    its = predictions[block_of(predictions, HELD_OUT, ATTRIBUTES) == "unseen countries"]
    scores = score_table(its).query("country == 'ALL'").set_index("granularity")
    slopes = slope_table(products(its, ATTRIBUTES, 10)).query("country == 'ALL'")
    slopes = slopes.set_index(["granularity", "toggle"])
    for g in (1, 4):
        row = table.loc[("unseen countries", g, MODEL)]
        assert row["score"] == pytest.approx(scores.loc[g, "score"])
        assert row[["n_cells", "n_questions", "n_countries"]].tolist() == [
            len(its.query("granularity == @g")),
            2,
            2,
        ]
        for toggle in ("attributes", "country"):
            expected = slopes.loc[(g, toggle), ["slope", "slope_low", "slope_high", "correlation"]]
            found = row[[f"{toggle}_{name}" for name in expected.index]]
            assert found.tolist() == pytest.approx(expected.tolist())
        assert table.loc[("unseen countries", g, "uniform"), "attributes_slope"] == 0
        worth = worth_table(squared_errors(its.query("granularity == @g")), ["granularity"])
        assert row["worth"] == pytest.approx(worth["worth"].item())
    assert table["worth"].isna().groupby("block").all().to_dict() == {
        "both unseen": False,
        "seen": True,  # training knows its respondents
        "unseen countries": False,
        "unseen questions": False,
    }


def test_seeds_share_a_row_with_a_wider_interval(predictions):
    wrong = predictions.assign(p_model=[np.eye(4)[0]] * len(predictions))
    runs = {"one": [predictions], "two": [predictions, wrong]}
    table = block_table(runs, HELD_OUT, ATTRIBUTES, 10).set_index(["block", "granularity", "run"])
    one, two = (table.xs(("unseen countries", 4, name)) for name in ("one", "two"))
    assert one["n_cells"] == two["n_cells"]
    assert two["score"] < one["score"]
    assert table[["score_low", "score_high"]].stack().dropna().between(0, 1).all()
    for name in ("score", "attributes_slope"):
        widths = [row[f"{name}_high"] - row[f"{name}_low"] for row in (one, two)]
        assert widths[1] > widths[0]


def test_cells_too_small_for_slopes_still_have_a_score(predictions):
    table = table_of(predictions, min_n=10**6)
    assert table["score"].notna().all()
    assert table["country_slope"].isna().all()
