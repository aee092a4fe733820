"""Weights of personas from margins, and a country's answer."""

import numpy as np
import pandas as pd
import pytest

from ace_jax.errors import InputError
from ace_jax.evaluation.poststratify import (
    national_answers,
    national_table,
    persona_weights,
    read_margins,
)

LEVELS = {"gender": ("Male", "Female"), "area": ("Urban", "Rural")}


def weights(tmp_path, text, known=LEVELS):
    (tmp_path / "m.csv").write_text(text)
    return persona_weights(read_margins(tmp_path / "m.csv"), ["DEU"], known)


def test_a_full_cross_is_taken_as_it_is(tmp_path):
    rows = "DEU,Male,Urban,1\nDEU,Female,Urban,2\nDEU,Male,Rural,3\nDEU,Female,Rural,4\n"
    found = weights(tmp_path, "country,gender,area,count\n" + rows)
    assert found["weight"].tolist() == pytest.approx([0.1, 0.3, 0.2, 0.4])
    assert found.iloc[1].to_dict() | {"weight": 0} == {
        "country": "DEU", "gender": "Male", "area": "Rural", "weight": 0}  # fmt: skip


def test_raking_reaches_margins_of_two_orders(tmp_path):
    """Three attributes: the cross of two, and one of the third with the first."""
    rng = np.random.default_rng(0)
    joint = rng.dirichlet(np.ones(8)).reshape(2, 2, 2)
    levels = {name: (f"{name}0", f"{name}1") for name in "abc"}
    lines = [f"DEU,a{i},b{j},,{joint.sum(2)[i, j]}" for i in (0, 1) for j in (0, 1)]
    lines += [f"DEU,,b{j},c{k},{joint.sum(0)[j, k]}" for j in (0, 1) for k in (0, 1)]
    found = weights(tmp_path, "\n".join(["country,a,b,c,share", *lines]), levels)
    raked = found["weight"].to_numpy().reshape(2, 2, 2)
    np.testing.assert_allclose(raked.sum(2), joint.sum(2), atol=1e-8)
    np.testing.assert_allclose(raked.sum(0), joint.sum(0), atol=1e-8)
    # a and c are independent given b: what the margins do not say is not made up.
    given_b = raked / raked.sum((0, 2), keepdims=True)
    outer = given_b.sum(2, keepdims=True) * given_b.sum(0, keepdims=True)
    np.testing.assert_allclose(given_b, outer, atol=1e-8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "country,gender,area,count\nDEU,Male,Urban,1\n",
            "miss Male/Rural, Female/Urban,",
        ),
        ("country,gender,count\nDEU,Male,1\n", "margins of DEU: miss Female; give 0"),
        ("country,gender,count\nDEU,Male,0\nDEU,Female,0\n", "sum to nothing"),
        ("country,gender,area,count\nDEU,Male,,1\nDEU,Female,,1\n", "say nothing of area"),
        ("country,gender,count\nDEU,Man,1\n", "level of gender: 'Man' is not known; .*Male"),
        ("country,sex,count\nDEU,Male,1\n", "attribute: 'sex' is not known"),
        ("country,gender,count\nFRA,Male,1\nFRA,Female,1\n", "country: 'DEU' is not known"),
        ("country,gender,count\nDEU,Male,x\n", "row 2: count is not a number"),
        ("country,gender,count\nDEU,Male,-1\n", "row 2: count is not a number of 0 or more"),
        ("country,gender\nDEU,Male\n", "needs one column count or share"),
        ("gender,count\nMale,1\n", "has no column 'country'"),
        ("country,gender,count\nDEU,Male\n", "row 2: has 2 fields"),
        ("country,gender,count\nDEU,Male,1\nDEU,Male,2\n", "row 3: names the group of another"),
        ("country,count\nDEU,1\n", "name no attribute"),
        ("country,gender,area,count\nDEU,,,1\n", "a row names no attribute"),
    ],
)
def test_margins_that_cannot_be_used_are_refused(text, message, tmp_path):
    with pytest.raises(InputError, match=message):
        weights(tmp_path, text)


def test_margins_that_contradict_one_another_are_refused(tmp_path):
    rows = "DEU,Male,Urban,.5\nDEU,Female,Urban,.2\nDEU,Male,Rural,.3\nDEU,Female,Rural,0\n"
    other = "DEU,Male,,.1\nDEU,Female,,.9\nDEU,,Urban,0\nDEU,,Rural,1\n"
    with pytest.raises(InputError, match="contradict one another"):
        weights(tmp_path, "country,gender,area,share\n" + rows + other)


def test_the_national_answer_weighs_personas():
    who = pd.DataFrame({"country": "DEU", "gender": ["Male", "Female"], "weight": [0.25, 0.75]})
    answers = pd.DataFrame(
        {
            "country": "DEU",
            "gender": ["Male", "Male", "Female", "Female"],
            "question_id": "q",
            "option": ["Yes", "No"] * 2,
            "p": [0.8, 0.2, 0.4, 0.6],
        }
    )
    table = national_answers(answers, who)
    assert table["p"].tolist() == pytest.approx([0.5, 0.5])
    assert table["p_unweighted"].tolist() == pytest.approx([0.6, 0.4])
    assert table["n_personas"].tolist() == [2, 2]


def test_national_distances_weigh_as_the_survey_does():
    """Coarser cells do not count; a model right in each persona is right for the country."""
    finest = pd.DataFrame(
        {
            "country": "DEU",
            "question_id": ["q", "q", "r", "r"],
            "granularity": 2,
            "n": [30, 10, 1, 1],
            "p_data": [np.array(p) for p in ([1.0, 0], [0, 1.0], [0.5, 0.5], [0.5, 0.5])],
            "p_model": [np.array(p) for p in ([1.0, 0], [0, 1.0], [1.0, 0], [0.5, 0.5])],
        }
    )
    coarse = finest.assign(granularity=1, n=99)
    table = national_table(pd.concat([coarse, finest], ignore_index=True), 2)
    assert table["n"].tolist() == [40, 2]
    assert table["distance"].tolist() == pytest.approx([0, 0.25])
    assert table["distance_unweighted"].tolist() == pytest.approx([0.25, 0.25])
    assert national_table(coarse, 2).empty


def test_without_a_country_it_is_said(tmp_path):
    (tmp_path / "m.csv").write_text("country,gender,count\nDEU,Male,1\n")
    with pytest.raises(InputError, match="--country: name the countries"):
        persona_weights(read_margins(tmp_path / "m.csv"), [], LEVELS)


def test_personas_with_further_attributes_do_not_count():
    """Margins by gender weigh those whom gender alone names, not each of their rural halves."""
    who = pd.DataFrame({"country": "DEU", "gender": ["Male", "Female"], "weight": [0.5, 0.5]})
    answers = pd.DataFrame(
        {
            "country": "DEU",
            "gender": ["Male", "Female", "Male", "Male"],
            "area": [None, None, "Urban", "Rural"],
            "question_id": "q",
            "option": "Yes",
            "p": [0.2, 0.4, 1.0, 1.0],
        }
    )
    table = national_answers(answers, who)
    assert table["p"].tolist() == pytest.approx([0.3])
    assert table["n_personas"].tolist() == [2]
