"""Intervals cover as often as they say, tests err as often as they say, ceilings are unbiased.

A simulation draws surveys and questions many times over; each time is a `country`, so that one
table holds them all.
"""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from survey_tables import answered, persona_table, questions_of

from ace_jax.evaluation.alignment import (
    Distributions,
    alignment_table,
    sampling_variance,
    scored_cells,
)
from ace_jax.evaluation.ceilings import cell_ceilings
from ace_jax.evaluation.comparison import gain_table
from ace_jax.evaluation.effects import effect_summary, effect_table, question_effects
from ace_jax.evaluation.uncertainty import averaging
from ace_jax.survey.personas import ATTRIBUTES

TIMES = 400
TWO = ATTRIBUTES[:2]  # four personas
REPEATS = [f"{i:03}" for i in range(TIMES)]


def tilted(base, by):
    """Moves distributions towards later options."""
    p = base * np.exp(by[..., None] * np.arange(base.shape[-1]))
    return p / p.sum(axis=-1, keepdims=True)


def surveys(questions, draws, *, fixed=False, n=40, far=0.4):
    """A row a cell: the truth and a model that is off differently for each question.

    Questions are drawn anew each time, unless they are fixed.
    """
    ids = [f"q{i}" for i in range(questions)]
    table = persona_table(REPEATS, ids, (2,), n=n, attributes=TWO)
    times = 1 if fixed else TIMES
    base = draws.dirichlet(np.full(5, 2.0), (times, questions))
    persona = draws.normal(0, 0.2, (times, questions, 4))
    off = draws.normal(0, far, (times, questions, 1))
    truth = tilted(base[:, :, None], persona)
    model = tilted(truth, off + draws.normal(0, 0.05, persona.shape))
    if fixed:
        truth, model = (np.broadcast_to(p, (TIMES, *p.shape[1:])) for p in (truth, model))
    return table, truth.reshape(-1, 5), model.reshape(-1, 5)


def coverage(low, high, truth):
    return ((low <= truth) & (truth <= high)).mean()


@pytest.mark.parametrize("questions", [8, 25])
@pytest.mark.parametrize("average", ["flat", "nested"])
def test_intervals_of_scores_cover_the_expected_score(questions, average):
    draws = np.random.default_rng(questions)
    table, truth, model = surveys(questions, draws)
    predictions = answered(table, truth, model, draws)
    topics = ("a",) if questions == 8 else ("a", "b", "a", "b", "c")
    cells = scored_cells(predictions, questions_of(table, topics), TWO)
    scores = alignment_table(cells, average).query("country != 'ALL'")
    expected = scores["score"].mean()
    assert 0.90 <= coverage(scores["ci_low"], scores["ci_high"], expected) <= 0.97


@pytest.mark.parametrize(
    "topics", [("a", "a", "a", "a", "a", "a", "a", "b", "c"), ("a", "b", "c", "d", "e", "f")]
)
def test_intervals_cover_where_topics_have_one_question(topics):
    draws = np.random.default_rng(len(topics))
    table, truth, model = surveys(len(topics), draws)
    predictions = answered(table, truth, model, draws)
    cells = scored_cells(predictions, questions_of(table, topics), TWO)
    scores = alignment_table(cells, "nested").query("country != 'ALL'")
    expected = scores["score"].mean()
    assert 0.90 <= coverage(scores["ci_low"], scores["ci_high"], expected) <= 0.97


def test_intervals_of_gains_cover_and_tests_err_as_often_as_they_say():
    draws = np.random.default_rng(1)
    table, truth, model = surveys(20, draws)
    swap = np.repeat(draws.random(len(table) // 4) < 0.5, 4)
    other = tilted(model, np.repeat(draws.normal(0, 0.3, len(table) // 4), 4))
    # Which of the two is whose is drawn for each question, so neither is better.
    models = (np.where(swap[:, None], model, other), np.where(swap[:, None], other, model))
    cells = {
        name: scored_cells(
            answered(table, truth, one, np.random.default_rng(2)), questions_of(table), TWO
        )
        for name, one in zip(("first", "second"), models, strict=True)
    }
    gains = gain_table(cells, "flat").query("country != 'ALL' and run == 'second'")
    assert 0.90 <= coverage(gains["gain_low"], gains["gain_high"], 0) <= 0.97
    assert 0.03 <= (gains["p_value"] <= 0.05).mean() <= 0.08


def test_the_interval_of_one_question_covers_under_sampling_of_respondents():
    draws = np.random.default_rng(3)
    table, truth, model = surveys(1, draws, fixed=True, far=1.5)
    cells = scored_cells(answered(table, truth, model, draws), questions_of(table), TWO)
    scores = alignment_table(cells, "flat").query("country != 'ALL'")
    expected = scores["score"].mean()
    assert 0.90 <= coverage(scores["ci_low"], scores["ci_high"], expected) <= 0.97


def test_standard_errors_of_effects_are_those_of_sampling_respondents():
    draws = np.random.default_rng(4)
    table, truth, model = surveys(3, draws, fixed=True)
    of_truth = effect_table(table.assign(p_data=list(truth), p_model=list(model)), TWO, min_n=10)
    pairs = effect_table(answered(table, truth, model, draws), TWO, min_n=10)
    summary, expected = (question_effects(of) for of in (pairs, of_truth))
    apart = summary["country"] != "ALL"
    low, high = (summary["data_effect"] + sign * 1.96 * summary["data_se"] for sign in (-1, 1))
    assert 0.93 <= coverage(low[apart], high[apart], expected["data_effect"][apart]) <= 0.97


def test_intervals_of_effects_cover_when_questions_are_drawn():
    draws = np.random.default_rng(5)
    table, truth, model = surveys(12, draws)
    shift = np.where(table["gender"] == "Female", draws.normal(0.3, 0.2), 0)
    truth = tilted(truth, shift)
    pairs = effect_table(answered(table, truth, model, draws), TWO, min_n=10)
    summary = effect_summary(pairs).query("country != 'ALL' and attribute == 'gender'")
    low, high = summary["distance_low"], summary["distance_high"]
    assert 0.90 <= coverage(low, high, summary["distance"].mean()) <= 0.97


def test_the_sampling_variance_is_that_of_multinomial_draws():
    draws = np.random.default_rng(0)
    p = draws.dirichlet(np.ones(4), 3)
    sample = draws.multinomial(30, p, (20_000, 3)) / 30
    slope = np.array([[1.0, -1, 1, 0], [0.5, 0.2, 0, 0], [1, 1, 1, 0]])
    found = (np.cumsum(sample, axis=2) * slope).sum(axis=2).var(axis=0)
    known = sampling_variance(slope, Distributions(p, np.full(3, 4)), np.full(3, 31.0))
    assert known == pytest.approx(found, rel=0.05)
    # Estimated from samples themselves, it is right on average.
    of_samples = [
        sampling_variance(slope, Distributions(one, np.full(3, 4)), np.full(3, 30.0))
        for one in sample[:2000]
    ]
    assert np.mean(of_samples, axis=0) == pytest.approx(found, rel=0.05)


def test_combinations_of_the_same_people_add_up_to_no_more_than_their_worst():
    table = persona_table(["USA"], ["q1"], (1,))
    cells = table.assign(topic="a", combination=np.repeat(["g", "e", "r", "m"], 2))
    means = averaging(cells, ["country"], "flat")
    # Four splits of the same people say as much as one: two halves, each of variance 1.
    assert means.sampling_errors(np.ones(8)) == pytest.approx([np.sqrt(0.5)])
    alone = means.intervals(np.zeros(8), np.ones(8))
    assert alone["high"].item() == pytest.approx(1.95996 * np.sqrt(0.5), abs=1e-4)


def test_questions_that_no_country_shares_are_compared_across_countries():
    cells = pd.DataFrame({"country": ["EGY", "USA"], "question_id": ["q1", "q2"]})
    means = averaging(cells, [], "flat", over=("country",))
    interval = means.intervals(np.array([0.0, 10.0]), np.array([4.0, 4.0]))
    assert interval["mean"].item() == 5
    # Two numbers, 0 and 10: Student's t with one degree of freedom.
    assert interval["high"].item() - 5 == pytest.approx(12.7062 * 5, rel=1e-5)


def test_a_question_alone_in_its_topic_varies_as_others_do_in_theirs():
    draws = np.random.default_rng(0)
    values = draws.normal(size=8)
    cells = pd.DataFrame({"country": "USA", "question_id": np.arange(8), "combination": "g"})
    means = averaging(cells.assign(topic=["a"] * 7 + ["b"]), ["country"], "nested")
    # The topics count alike: 1/2 each; 6 degrees of freedom, all from the first topic.
    error = values[:7].std(ddof=1) * np.sqrt(0.25 / 7 + 0.25)
    interval = means.intervals(values, np.full(8, 1e-6))
    assert interval["high"].item() - interval["mean"].item() == pytest.approx(2.44691 * error)


def test_without_a_sampling_variance_one_question_has_no_interval():
    cells = persona_table(["USA"], ["q1"])
    interval = averaging(cells, ["country"], "flat").intervals(np.zeros(16))
    assert interval["mean"].item() == 0
    assert interval[["low", "high"]].isna().all(axis=None)


def test_the_standard_error_is_the_textbooks_for_one_cell_a_question():
    values = np.random.default_rng(0).normal(size=50)
    cells = pd.DataFrame({"country": "USA", "question_id": np.arange(50)})
    interval = averaging(cells, ["country"], "flat").intervals(values)
    half = 2.00958 * values.std(ddof=1) / np.sqrt(50)  # Student's t, 49 degrees of freedom
    assert interval["mean"].item() == pytest.approx(values.mean())
    assert interval["high"].item() - values.mean() == pytest.approx(half, rel=1e-5)


def exact_ceiling(truth, n):
    """100 x (1 - mean over thresholds of E|x / n - F|), x binomial: no simulation."""
    cumulative = np.cumsum(truth, axis=1)[:, :-1].clip(0, 1)
    x = np.arange(n + 1)[:, None, None]
    away = (np.abs(x / n - cumulative) * binom.pmf(x, n, cumulative)).sum(axis=0)
    return 100 * (1 - away.mean(axis=1))


@pytest.mark.parametrize("n", [10, 60])
def test_ceilings_are_those_of_the_truth_although_only_a_sample_is_known(n):
    draws = np.random.default_rng(n)
    table = persona_table(["USA"], [f"q{i}" for i in range(125)], n=n)
    truth = draws.dirichlet(np.full(5, 0.6), len(table))
    known = answered(table, truth, truth, draws)
    expected = exact_ceiling(truth, n).mean()
    found = cell_ceilings(known, seed=0).mean()
    # What taking the sample for the truth gives, which is too high.
    naive = exact_ceiling(np.stack(known["p_data"].to_list()), n).mean()
    assert naive - expected > 5 * abs(found - expected)
    # And the model that knows the truth does score that.
    scored = 100 * known["score"].mean()
    assert found == pytest.approx(scored, abs=0.3)


def test_ceilings_take_effective_respondents_and_any_number_of_options():
    draws = np.random.default_rng(0)
    table = persona_table(["USA"], ["q1"], n=200).assign(effective_n=50.4)
    half = answered(table, np.full((16, 2), 0.5), np.full((16, 2), 0.5), draws)
    fifth = answered(table, np.full((16, 5), 0.2), np.full((16, 5), 0.2), draws)
    both = pd.concat([half, fifth], ignore_index=True)
    found = cell_ceilings(both, seed=0)
    expected = [exact_ceiling(np.full((1, k), 1 / k), 50)[0] for k in (2, 5)]
    assert [found[:16].mean(), found[16:].mean()] == pytest.approx(expected, abs=0.2)
