"""Effects: signed, in size, their distances and classes."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from survey_tables import answered, persona_table, questions_of

from ace_jax.errors import InputError
from ace_jax.evaluation.alignment import effect_distances, topics_of
from ace_jax.evaluation.ceilings import effect_floors
from ace_jax.evaluation.effects import (
    CLASSES,
    class_shares,
    classify,
    effect_summary,
    effect_table,
    question_effects,
)
from ace_jax.survey.personas import ATTRIBUTES, Attribute

EFFECT = st.floats(-100, 100, allow_nan=False)


def predictions(seed=0, questions=("q1", "q2", "q3"), countries=("MEX", "USA"), n=40):
    draws = np.random.default_rng(seed)
    table = persona_table(countries, questions, n=n)
    truth, model = np.random.default_rng(99).dirichlet(np.ones(4), (2, len(table)))
    return answered(table, truth, 0.5 * truth + 0.5 * model, draws)


@pytest.fixture
def pairs():
    table = predictions()
    pairs = effect_table(table, ATTRIBUTES, min_n=10)
    return pairs.assign(topic=topics_of(pairs["question_id"], questions_of(table, ("a", "b"))))


def effect_distance(model, data):
    one, other = (np.cumsum(effect)[None] for effect in (model, data))
    return effect_distances(one, other, np.array([len(model)])).item()


def test_an_effect_distance_by_hand():
    # The survey moves 0.3 from the first option to the last, the model nothing.
    assert effect_distance(np.zeros(3), np.array([-0.3, 0.0, 0.3])) == pytest.approx(0.2)


def test_every_attribute_has_its_pairs():
    table = effect_table(predictions(questions=("q1",), countries=("USA",)), ATTRIBUTES, min_n=10)
    names = [attribute.name for attribute in ATTRIBUTES]
    assert table["attribute"].value_counts().to_dict() == dict.fromkeys(names, 8)


def test_a_pair_by_hand():
    table = predictions(countries=("USA",), questions=("q1",))
    pair = effect_table(table, ATTRIBUTES, min_n=10).query("attribute == 'residence'").iloc[0]
    zero, one = table.iloc[pair["cell_0"]], table.iloc[pair["cell_1"]]
    assert (zero["residence"], one["residence"]) == ("Urban", "Rural")
    assert pair["combination"] == "Urban > Rural"
    position = np.arange(4)
    for name in ("data", "model"):
        moved = one[f"p_{name}"] - zero[f"p_{name}"]
        assert pair[f"{name}_effect"] == pytest.approx(100 * position @ moved / 3)
        size = np.abs(np.cumsum(moved))[:-1].sum() / 3
        assert pair[f"{name}_size"] == pytest.approx(100 * size)
    data, model = (one[f"p_{name}"] - zero[f"p_{name}"] for name in ("data", "model"))
    assert pair["distance"] == pytest.approx(effect_distance(model, data))
    assert pair["distance_no_effect"] == pytest.approx(effect_distance(np.zeros(4), data))


def test_moving_everyone_from_the_first_to_the_last_option_is_100():
    table = persona_table(["USA"], ["q1"])
    last = (table["gender"] == "Female").to_numpy()[:, None]
    p = np.where(last, [0.0, 0.0, 1.0], [1.0, 0.0, 0.0])
    table = answered(table, p, p[::-1], np.random.default_rng(0))
    pairs = effect_table(table, ATTRIBUTES, min_n=10)
    of_gender = pairs[pairs["attribute"] == "gender"]
    assert (of_gender["data_effect"] == 100).all()
    assert (of_gender["model_effect"] == -100).all()
    assert pairs.loc[pairs["attribute"] != "gender", "data_effect"].tolist() == [0] * 24


def test_questions_of_any_number_of_options_share_a_table():
    short = predictions(questions=("q1",))
    alone = effect_table(short, ATTRIBUTES, min_n=10)
    two = persona_table(("MEX", "USA"), ("q9",))
    p = np.random.default_rng(3).dirichlet(np.ones(9), len(two))
    both = pd.concat([short, answered(two, p, p, np.random.default_rng(0))], ignore_index=True)
    together = effect_table(both, ATTRIBUTES, min_n=10)
    same = together[together["question_id"] == "q1"].reset_index(drop=True)
    columns = ["distance", "data_effect", "model_size", "variance"]
    assert np.allclose(same[columns], alone[columns], rtol=1e-12)


def test_a_summary_is_a_mean_over_pairs(pairs):
    summary = effect_summary(pairs).set_index(["country", "attribute"])
    columns = ["data_size", "model_size", "distance"]
    by_hand = pairs.groupby(["country", "attribute"])[columns].mean()
    assert np.allclose(summary.loc[by_hand.index, columns], by_hand, rtol=1e-12)
    overall = by_hand.groupby("attribute").mean()
    assert np.allclose(summary.loc["ALL"].loc[overall.index, columns], overall, rtol=1e-12)
    of_gender = pairs.query("country == 'USA' and attribute == 'gender'")
    numbers = summary.loc[("USA", "gender"), ["n_pairs", "n_questions"]].tolist()
    assert numbers == [len(of_gender), of_gender["question_id"].nunique()]


def test_an_effect_is_that_of_one_question_and_toggle(pairs):
    effects = question_effects(pairs).set_index(["country", "attribute", "question_id"])
    one = pairs.query("country == 'USA' and attribute == 'gender' and question_id == 'q1'")
    row = effects.loc[("USA", "gender", "q1")]
    columns = ["data_effect", "model_effect", "data_size", "model_size"]
    assert np.allclose(row[columns].astype(float), one[columns].mean())
    assert row["data_se"] == pytest.approx(np.sqrt(one["variance"].sum()) / len(one))
    over = pairs.query("attribute == 'gender' and question_id == 'q1'")
    assert effects.loc[("ALL", "gender", "q1"), "n_pairs"] == len(over)


def test_classes_stand_beside_a_perfect_model_and_one_without_effects(pairs):
    effects = question_effects(pairs.assign(run="model"), ["run"])
    large = (effects["data_effect"].abs() > 2 * effects["data_se"]) & (effects["country"] == "ALL")
    for model_effect, expected in ((effects["data_effect"], 100), (0.0, None)):
        shares = class_shares(effects.assign(model_effect=model_effect))
        shares = shares.query("country == 'ALL'").set_index(["run", "class"])["share"]
        # 95 % of the errors of a perfect model are within two standard errors.
        assert shares[("perfect model", "Aligned")] == pytest.approx(95.4, abs=3)
        erased = shares[("no effect", "Erasure")]
        assert erased == pytest.approx(100 * large.sum() / (effects["country"] == "ALL").sum())
        assert shares[("no effect", "Aligned")] == pytest.approx(100 - erased)
        if expected:
            assert shares[("model", "Aligned")] == expected
        else:
            assert shares["model"].equals(shares["no effect"])


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        (3.0, 2.5, "Aligned"),
        (0.5, -0.5, "Aligned"),  # opposite, but no further apart than the threshold
        (2.0, -1.0, "Flipped"),
        (5.0, 2.0, "Stereotyping"),
        (-5.0, -2.0, "Stereotyping"),
        (5.0, 0.0, "Stereotyping"),
        (1.0, 3.0, "Erasure"),
        (0.0, 3.0, "Erasure"),
    ],
)
def test_classes(model, data, expected):
    assert classify(np.array([model]), np.array([data]), 1.0).tolist() == [expected]


@given(
    st.lists(st.tuples(EFFECT, EFFECT), min_size=1, max_size=20), st.floats(0, 50, exclude_min=True)
)
def test_classes_are_exhaustive_and_exclusive(effects, epsilon):
    model, data = np.array(effects).T
    found = classify(model, data, epsilon)
    aligned = np.abs(model - data) <= epsilon
    opposite = (model > 0) & (data < 0) | (model < 0) & (data > 0)
    # Definitions that share no case and leave none out, written without precedence.
    definitions = {
        "Aligned": aligned,
        "Flipped": ~aligned & opposite,
        "Stereotyping": ~aligned & ~opposite & (np.abs(model) > np.abs(data)),
        "Erasure": ~aligned & ~opposite & (np.abs(model) < np.abs(data)),
    }
    held = np.stack([definitions[name] for name in CLASSES])
    assert (held.sum(axis=0) == 1).all()
    assert found.tolist() == [CLASSES[i] for i in held.argmax(axis=0)]


def test_shares_name_every_class_and_add_up(pairs):
    shares = class_shares(question_effects(pairs.assign(run="model"), ["run"]))
    model = shares[shares["run"] == "model"]
    assert set(shares["run"]) == {"model", "perfect model", "no effect"}
    assert sorted(model["country"].unique()) == ["ALL", "MEX", "USA"]
    assert model["class"].tolist() == 3 * list(CLASSES)
    toggles = question_effects(pairs).groupby("country").size()
    assert model.groupby("country")["n"].sum().equals(toggles.rename("n"))
    totals = shares.groupby(["run", "country"])["share"].sum().tolist()
    assert totals == pytest.approx([100] * 9)


def test_an_attribute_of_three_levels_has_three_pairs_of_levels():
    attributes = (Attribute("age", ("Young", "Middle", "Old")),)
    table = pd.DataFrame({"age": ["Young", "Middle", "Old"], "country": "USA", "question_id": "q"})
    table = table.assign(granularity=1, n=50, effective_n=50.0)
    p = np.random.default_rng(0).dirichlet(np.ones(3), 3)
    pairs = effect_table(answered(table, p, p, np.random.default_rng(0)), attributes, min_n=10)
    assert pairs["combination"].tolist() == ["Young > Middle", "Young > Old", "Middle > Old"]


def test_the_floor_is_what_a_perfect_model_meets():
    questions = [f"q{i}" for i in range(30)]
    table = predictions(n=25, questions=questions, countries=["USA"])
    truth = np.random.default_rng(99).dirichlet(np.ones(4), (2, len(table)))[0]
    met = []
    for seed in range(10):
        drawn = answered(table, truth, truth, np.random.default_rng(seed))
        met.append(effect_table(drawn, ATTRIBUTES, min_n=10)["distance"].mean())
    pairs = effect_table(table, ATTRIBUTES, min_n=10)
    assert effect_floors(table, pairs, seed=0).mean() == pytest.approx(np.mean(met), rel=0.03)


def test_without_pairs_there_are_no_effects():
    with pytest.raises(InputError, match="no pair among"):
        effect_table(predictions(n=9), ATTRIBUTES, min_n=10)
