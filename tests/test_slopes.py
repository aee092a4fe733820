"""Slopes against plain loops, and against simulations whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from ace_jax.evaluation.alignment import Distributions
from ace_jax.evaluation.slopes import (
    ALIGNED,
    ATTRIBUTES,
    NONE,
    PART,
    REVERSED,
    TOO_MUCH,
    UNCLEAR,
    holm,
    products,
    ratio_table,
    slope_differences,
    slope_table,
    verdict,
)
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.survey.personas import ATTRIBUTES as PAPER
from ace_jax.survey.personas import Attribute, personas

TWO = (PAPER[0], PAPER[1])
COUNTRIES, K = ("DEU", "FRA", "ITA", "POL"), 4
SIMULATIONS = 400


def softmax(x):
    p = np.exp(x - x.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def answers_to(draw, questions, countries=COUNTRIES, n=60, spread=0.5):
    """Predictions of cells whose true distributions are known: columns p_true, p_data, p_model."""
    rows = pd.DataFrame(
        [
            {"question_id": f"q{q}", "country": country, "granularity": 2, **persona}
            for q in range(questions)
            for country in countries
            for persona in personas(TWO, 2)
        ]
    )
    logits = np.zeros((len(rows), K))
    for alike in (
        ["question_id"],
        ["question_id", "country"],
        *(["question_id", a.name] for a in TWO),
    ):
        code = rows.groupby(alike).ngroup().to_numpy()
        logits += spread * draw.standard_normal((code.max() + 1, K))[code]
    truth = softmax(logits)
    size = np.full(len(rows), n)
    data = draw.multinomial(size, truth) / n
    return rows.assign(
        n=size, effective_n=size.astype(float), p_true=list(truth), p_data=list(data)
    )


def moved_by(rows, share):
    """A model that shows a `share`, by question, of the true deviations from its mean."""
    truth = np.stack(rows["p_true"])
    question = pd.factorize(rows["question_id"])[0]
    mean = np.stack([truth[question == q].mean(axis=0) for q in range(question.max() + 1)])
    return rows.assign(
        p_model=list(mean[question] + share[question][:, None] * (truth - mean[question]))
    )


@pytest.mark.parametrize("toggle", ["gender", "education", "country"])
def test_a_slope_is_that_of_all_pairs(toggle):
    """Deviations from a group's mean give the same sums as every two cells of the group."""
    draw = np.random.default_rng(0)
    table = moved_by(answers_to(draw, 3), np.array([0.2, 0.5, 1.1]))
    pairs = toggle_pairs(table, TWO, min_n=10, countries=True).query("attribute == @toggle")
    data, model = (Distributions.of(table[name]) for name in ("p_data", "p_model"))
    above = below = own = 0.0
    for pair in pairs.itertuples():
        for k in range(K - 1):
            moved = data.cumulative[pair.cell_1, k] - data.cumulative[pair.cell_0, k]
            answered = model.cumulative[pair.cell_1, k] - model.cumulative[pair.cell_0, k]
            above += answered * moved
            own += answered**2
            below += moved**2
            for cell in (pair.cell_0, pair.cell_1):
                share = data.cumulative[cell, k]
                below -= share * (1 - share) / (table["n"].iloc[cell] - 1)
    found = slope_table(products(table, TWO, min_n=10))
    row = found.query("country == 'ALL' and toggle == @toggle").iloc[0]
    assert row["slope"] == pytest.approx(above / below, rel=1e-9)
    assert row["correlation"] == pytest.approx(above / np.sqrt(own * below), rel=1e-9)
    assert row["sd_ratio"] == pytest.approx(np.sqrt(own / below), rel=1e-9)
    assert row["n_questions"] == 3


@pytest.fixture(scope="module", params=[5, 12])
def simulated(request):
    """Rows of slope_table, one a simulation and toggle; true slopes vary over questions."""
    questions = request.param
    draw = np.random.default_rng(questions)
    tables = []
    for number in range(SIMULATIONS):
        table = answers_to(draw, questions)
        table = moved_by(table, draw.normal(0.5, 0.3, questions))
        tables.append(table.assign(question_id=f"{number}:" + table["question_id"]))
    sums = products(pd.concat(tables, ignore_index=True), TWO, min_n=10)
    sums["run"] = sums["question_id"].str.partition(":")[0]
    return slope_table(sums, ["run"]).query("country == 'ALL'")


@pytest.mark.parametrize("toggle", ["gender", "education", ATTRIBUTES, "country"])
def test_slopes_are_unbiased_and_their_intervals_cover(simulated, toggle):
    rows = simulated[simulated["toggle"] == toggle]
    assert len(rows) == SIMULATIONS
    assert rows["slope"].mean() == pytest.approx(0.5, abs=0.02)
    covered = ((rows["slope_low"] <= 0.5) & (rows["slope_high"] >= 0.5)).mean()
    assert 0.92 <= covered <= 0.98


def test_a_model_that_moves_at_random_has_slopes_centred_on_zero():
    """A placebo: the differences of another survey, of the same size."""
    draw = np.random.default_rng(2)
    table = answers_to(draw, 200)
    other = moved_by(answers_to(draw, 200), np.ones(200))
    found = slope_table(products(table.assign(p_model=other["p_model"]), TWO, min_n=10))
    rows = found.query("country == 'ALL'")
    assert rows["slope"].abs().max() < 0.1
    assert (rows["slope_low"] < 0).all() and (rows["slope_high"] > 0).all()
    assert rows["sd_ratio"].between(0.8, 1.25).all()


def test_one_answer_for_all_is_no_effect_learnt_and_the_truth_is_aligned():
    table = answers_to(np.random.default_rng(3), 20)
    for p_model, expected, slope in (
        ([np.full(K, 1 / K)] * len(table), NONE, 0.0),
        (list(table["p_true"]), ALIGNED, 1.0),
    ):
        found = slope_table(products(table.assign(p_model=p_model), TWO, min_n=10))
        rows = found.query("country == 'ALL'")
        assert (rows["verdict"] == expected).all()
        assert rows["slope"].tolist() == pytest.approx([slope] * len(rows), abs=0.1)


def test_a_country_has_its_own_slope():
    table = answers_to(np.random.default_rng(4), 20, n=1000)
    answered = np.where(
        table["country"] == "POL", table["p_true"], pd.Series([np.full(K, 0.25)] * len(table))
    )
    found = slope_table(products(table.assign(p_model=answered), TWO, min_n=10))
    slope = found.query("toggle == @ATTRIBUTES").set_index("country")["slope"]
    assert slope["POL"] == pytest.approx(1, abs=0.05)
    assert slope[["DEU", "FRA", "ITA"]].tolist() == pytest.approx([0, 0, 0], abs=1e-9)


def test_small_cells_and_lone_cells_count_for_nothing():
    table = moved_by(answers_to(np.random.default_rng(5), 3), np.ones(3))
    whole = products(table, TWO, min_n=10)
    small = table.assign(n=np.where(table["country"] == "POL", 9, 60))
    without = products(table[table["country"] != "POL"], TWO, min_n=10)
    pd.testing.assert_frame_equal(products(small, TWO, min_n=10), without)
    assert len(without) < len(whole)
    one = table.query("country == 'DEU' and gender == 'Male' and education == 'College Educated'")
    assert products(one, TWO, min_n=10).empty


def test_three_levels_are_one_toggle():
    three = (Attribute("age", ("Young", "Middle", "Old")),)
    p = [[0.2, 0.8], [0.5, 0.5], [0.8, 0.2]]
    rows = [
        {
            "country": "DEU",
            "granularity": 1,
            "question_id": q,
            "age": age,
            "n": 10**6,
            "effective_n": 1e6,
            "p_data": np.array(of),
            "p_model": np.array(of)[::-1],
        }
        for q in "ab"
        for age, of in zip(three[0].levels, p, strict=True)
    ]
    found = slope_table(products(pd.DataFrame(rows), three, min_n=10)).query("country == 'ALL'")
    assert found["slope"].tolist() == pytest.approx([-1, -1], abs=1e-4)
    assert found["verdict"].tolist() == [REVERSED, REVERSED]


def test_seeds_widen_the_interval():
    above = [("a", 0.4), ("b", 0.5), ("c", 0.6)]

    def interval(*moves, below=1.0, questions=3):
        rows = [
            {"question_id": q, "seed": seed, "md": value + move, "dd": below, "n_cells": 2}
            for seed, move in enumerate(moves)
            for q, value in above[:questions]
        ]
        row = ratio_table(pd.DataFrame(rows).assign(run="x"), ["run"], "md", "dd").iloc[0]
        assert row["n_cells"] == 2 * questions
        return row[["low", "ratio", "high"]].tolist()

    alike, apart = interval(0, 0), interval(0.3, -0.3)
    assert alike == pytest.approx(interval(0))
    assert apart[1] == pytest.approx(alike[1])
    assert apart[2] - apart[0] > alike[2] - alike[0]
    assert np.isnan(interval(0, below=-1.0)).all()
    assert np.isnan(interval(0, questions=1)).tolist() == [True, False, True]


def sums_of(runs):
    """Products of runs, each a list of seeds' shares by question, on the same cells."""
    table = answers_to(np.random.default_rng(8), 12)
    parts = [
        products(moved_by(table, np.full(12, share)), TWO, min_n=10).assign(run=name, seed=seed)
        for name, seeds in runs.items()
        for seed, share in enumerate(seeds)
    ]
    return table, pd.concat(parts, ignore_index=True)


def test_a_difference_of_slopes_is_paired_by_question():
    _, sums = sums_of({"base": [0.0], "tuned": [0.4, 0.6, 0.5]})
    slopes = slope_table(sums, ["run"]).query("country == 'ALL'").set_index(["run", "toggle"])
    found = slope_differences(sums).set_index("toggle")
    assert found["other"].eq("base").all() and found["run"].eq("tuned").all()
    for toggle in ("gender", "country", ATTRIBUTES):
        expected = slopes["slope"]["tuned", toggle] - slopes["slope"]["base", toggle]
        assert found["difference"][toggle] == pytest.approx(expected)
    assert found["primary"].to_dict() == dict.fromkeys(found.index, False) | {ATTRIBUTES: True}
    assert np.isnan(found["p_holm"][ATTRIBUTES])
    assert found["p_value"].max() < 0.01
    # Two runs that move alike differ by nothing, however much questions differ.
    _, sums = sums_of({"one": [0.5], "other": [0.5]})
    alike = slope_differences(sums)
    assert alike[["difference", "difference_low", "difference_high"]].abs().max().max() < 1e-9


def test_seeds_are_in_the_p_value():
    _, steady = sums_of({"base": [0.0], "tuned": [0.4, 0.4, 0.4]})
    _, wild = sums_of({"base": [0.0], "tuned": [0.0, 0.4, 0.8]})
    p = [slope_differences(sums)["p_value"].max() for sums in (steady, wild)]
    assert p[0] < 0.01 and p[1] > 0.05


@pytest.mark.parametrize("of_seeds", [0.05, 0.1])
def test_p_values_are_right_where_nothing_differs(of_seeds):
    """1,000 comparisons whose differences are chance, of 12 questions and 3 seeds."""
    draw = np.random.default_rng(9)
    by_question, by_seed = (draw.normal(0, sd, (1000, n)) for sd, n in ((0.1, 12), (of_seeds, 3)))
    run, question, seed = (each.ravel() for each in np.indices((1000, 12, 3)))
    gained = by_question[run, question] + by_seed[run, seed]
    table = pd.DataFrame({"run": run, "question_id": question, "seed": seed, "gained": gained})
    found = ratio_table(table.assign(dd=1.0, n_cells=1), ["run"], "gained", "dd")
    assert 0.02 <= (found["p_value"] < 0.05).mean() <= 0.08


def test_holm_counts_the_tests_that_are_left():
    p = pd.Series([0.01, np.nan, 0.04, 0.03], index=[3, 2, 1, 0])
    assert holm(p).tolist() == pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)


@pytest.mark.parametrize(
    ("low", "slope", "high", "words"),
    [
        (-0.1, 0.05, 0.2, NONE),
        (0.0, 0.0, 0.0, NONE),
        (0.1, 0.3, 0.5, PART),
        (0.7, 0.9, 1.1, ALIGNED),
        (0.82, 0.85, 0.88, ALIGNED),
        (1.3, 1.6, 1.9, TOO_MUCH),
        (-0.5, -0.3, -0.1, REVERSED),
        (-0.5, 0.4, 1.3, UNCLEAR),
        (-0.13, 0.32, 0.77, UNCLEAR),
        (-0.9, -0.1, 0.7, UNCLEAR),
        (np.nan, 0.4, np.nan, UNCLEAR),
    ],
)
def test_verdicts(low, slope, high, words):
    assert verdict(low, slope, high) == words
