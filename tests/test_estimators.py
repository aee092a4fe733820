from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from ace_jax.survey.cells import aggregate
from ace_jax.survey.codebook import Question
from ace_jax.survey.estimators import main_effects, pair_precision, shrunk
from ace_jax.survey.personas import ATTRIBUTES, Attribute

AGES = Attribute("age", ("Young", "Middle", "Old"))
TWO = (AGES, Attribute("region", ("North", "South")))
THREE = (*TWO, Attribute("class", ("Low", "Middle", "High")))


def grid(attributes):
    return list(product(*(attribute.levels for attribute in attributes)))


def survey(counts, attributes, weights=None):
    """Cells of respondents; counts: (question, country) -> answers by finest persona, option.

    The respondents of a finest persona share a weight, or take those of `weights` in turn.
    """
    options = {question: answers.shape[1] for (question, _), answers in counts.items()}
    rows = []
    for (question, country), answers in counts.items():
        for persona, row in zip(grid(attributes), answers, strict=True):
            chosen = np.repeat(np.arange(len(row)), row)
            rows += [(country, *persona, question, option) for option in chosen]
    names = [attribute.name for attribute in attributes]
    frame = pd.DataFrame(rows, columns=["country", *names, "question", "option"])
    frame["weight"] = np.resize([1.0] if weights is None else weights, len(frame))
    for attribute in attributes:
        dtype = pd.CategoricalDtype(attribute.levels, ordered=True)
        frame[attribute.name] = frame[attribute.name].astype(dtype)
    for question in options:
        frame[question] = frame["option"].where(frame["question"] == question).astype("float64")
    questions = tuple(
        Question("mine", name, "Work", "?", tuple(range(count)), tuple("abcdefgh"[:count]), True)
        for name, count in options.items()
    )
    return aggregate(frame, attributes, questions)


def main_effects_truth(random, attributes, options, size):
    """Distributions by finest persona in which log-odds add up, over attributes."""
    log_odds = random.normal(size=options)
    for axis, attribute in enumerate(attributes):
        effect = random.normal(size=(len(attribute.levels), options)) * size
        level = [attribute.levels.index(persona[axis]) for persona in grid(attributes)]
        log_odds = log_odds + effect[level]
    return softmax(log_odds, axis=1)


def answers(random, truth, n, tau=None):
    """Draws n answers a persona; with tau, personas differ from the truth beyond sampling."""
    if tau is not None:
        truth = np.stack([random.dirichlet(tau * p) for p in truth])
    return np.stack([random.multinomial(n, p) for p in truth])


def finest(cells, attributes):
    return cells[[attribute.name for attribute in attributes]].notna().all(axis=1).to_numpy()


@pytest.fixture(scope="module")
def mixed():
    """Three countries; a question that main effects explain, and one that they do not."""
    random = np.random.default_rng(4)
    counts = {}
    for country in ("CHL", "MEX", "USA"):
        truth = main_effects_truth(random, ATTRIBUTES, 4, 0.3)
        counts["alike", country] = answers(random, truth, 150)
        truth = main_effects_truth(random, ATTRIBUTES, 3, 0.3)
        counts["unlike", country] = answers(random, truth, 150, tau=20)
    return survey(counts, ATTRIBUTES)


def test_distributions_keep_the_order_of_the_rows(mixed):
    estimate, _ = shrunk(mixed, ATTRIBUTES)
    assert [len(p) for p in estimate] == [len(p) for p in mixed["p"]]
    assert {p.dtype for p in estimate} == {np.dtype(np.float64)}
    assert min(p.min() for p in estimate) >= 0
    np.testing.assert_allclose([p.sum() for p in estimate], 1, atol=1e-12)
    shuffled = np.random.default_rng(1).permutation(len(mixed))
    for row, p in zip(shuffled, shrunk(mixed.iloc[shuffled], ATTRIBUTES)[0], strict=True):
        np.testing.assert_allclose(p, estimate[row], atol=1e-5)


def test_strength_is_a_questions_own_and_recovered(mixed):
    _, strength = main_effects(mixed, ATTRIBUTES)
    assert strength["alike"] > 100
    # Twice that without allowance for the fit of the mean.
    assert 15 < strength["unlike"] < 30


def test_large_cells_keep_their_shares_and_a_single_respondent_counts_little():
    random = np.random.default_rng(0)
    counts = {
        ("q", country): answers(random, main_effects_truth(random, ATTRIBUTES, 3, 0.3), 60, tau=30)
        for country in ("CHL", "MEX", "USA", "DEU")
    }
    counts["q", "USA"][0] *= 3000
    counts["q", "USA"][5] = 1, 0, 0
    cells = survey(counts, ATTRIBUTES)
    estimate, _ = shrunk(cells, ATTRIBUTES)
    at = finest(cells, ATTRIBUTES)
    mean = dict(zip(np.flatnonzero(at), main_effects(cells, ATTRIBUTES)[0], strict=True))
    (large,) = np.flatnonzero(at & (cells["n"] == 180_000))
    (single,) = np.flatnonzero(at & (cells["n"] == 1))
    raw = cells["p"].iloc[large]
    assert np.abs(mean[large] - raw).max() > 0.05
    np.testing.assert_allclose(estimate[large], raw, atol=1e-3)
    np.testing.assert_allclose(estimate[single], mean[single], atol=0.05)
    assert np.abs(estimate[single] - cells["p"].iloc[single]).max() > 0.3


@pytest.mark.parametrize("attributes", [ATTRIBUTES, THREE])
def test_finds_the_truth_better_than_raw_cells_do(attributes):
    random = np.random.default_rng(0)
    truths = {
        (question, country): main_effects_truth(random, attributes, 5, 0.2)
        for question in ("q1", "q2")
        for country in ("CHL", "MEX", "USA", "DEU")
    }
    counts = {key: answers(random, truth, 40) for key, truth in truths.items()}
    cells = survey(counts, attributes)
    at = finest(cells, attributes)
    personas = grid(attributes)
    names = [attribute.name for attribute in attributes]
    truth = np.stack(
        [
            truths[row["question_id"], row["country"]][
                personas.index(tuple(row[name] for name in names))
            ]
            for row in cells[at].to_dict("records")
        ]
    )
    raw = np.stack(cells["p"][at])
    estimate = np.stack(
        [p for p, kept in zip(shrunk(cells, attributes)[0], at, strict=True) if kept]
    )
    error, raw_error = (np.square(p - truth).sum(axis=1).mean() for p in (estimate, raw))
    # Of 16 and 18 personas' freedom main effects have 5 and 6; shrinking them leaves less.
    assert error < 5 / 16 * raw_error


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
def test_coarser_cells_move_as_their_finest_cells_do(weights):
    random = np.random.default_rng(0)
    truth = main_effects_truth(random, TWO, 3, 0.3)
    sizes = np.array([5, 90, 30, 60, 1, 200])
    drawn = np.stack([random.multinomial(n, p) for n, p in zip(sizes, truth, strict=True)])
    cells = survey({("q", "USA"): drawn}, TWO, weights)
    cells["shrunk"], _ = shrunk(cells, TWO)
    fine = cells[finest(cells, TWO)]
    for row in cells[~finest(cells, TWO)].to_dict("records"):
        names = [attribute.name for attribute in TWO if pd.notna(row[attribute.name])]
        mine = fine[(fine[names] == [row[name] for name in names]).all(axis=1)]
        after, before = (
            np.average(np.stack(mine[p]), axis=0, weights=mine["n"]) for p in ("shrunk", "p")
        )
        np.testing.assert_allclose(row["shrunk"], row["p"] + after - before, atol=1e-12)
        if weights is None:
            np.testing.assert_allclose(row["shrunk"], after, atol=1e-12)


def test_weighted_cells_count_as_their_effective_respondents():
    random = np.random.default_rng(0)
    truth = main_effects_truth(random, TWO, 3, 0.3)
    counts = {("q", country): answers(random, truth, 60, tau=30) for country in ("MEX", "USA")}
    cells = survey(counts, TWO, [0.2, 1.0, 3.0])
    mean, strength = main_effects(cells, TWO)
    at = finest(cells, TWO)
    n = cells["effective_n"].to_numpy()[at, None]
    assert (n < cells["n"].to_numpy()[at, None]).all()
    assert main_effects(cells.assign(n=1), TWO)[1] == strength
    tau, raw = strength["q"], np.stack(cells["p"][at])
    expected = (n * raw + tau * mean) / (n + tau)
    estimate = [p for p, kept in zip(shrunk(cells, TWO)[0], at, strict=True) if kept]
    np.testing.assert_allclose(np.stack(estimate), expected, atol=1e-12)


def test_an_option_that_nobody_chose_stays_possible():
    counts = {("q", "USA"): np.array([[5, 0, 9], [3, 0, 2], [0, 0, 7], [1, 0, 8], [4, 0, 4]] * 3)}
    attributes = (Attribute("class", ("A", "B", "C")), Attribute("party", tuple("vwxyz")))
    estimate, _ = shrunk(survey(counts, attributes), attributes)
    assert 0 < min(p[1] for p in estimate) <= max(p[1] for p in estimate) < 0.05


def test_pair_precision_is_that_of_noise_and_true_effects():
    """By hand: v of both ends, and what the effects vary beyond it."""
    p = [np.array(of) for of in ([0.5, 0.5], [0.9, 0.1], [0.5, 0.5], [0.5, 0.5])]
    cells = pd.DataFrame({"p": p, "effective_n": [101.0, 101.0, 11.0, 11.0]})
    v = np.array([0.25 / 100 + 0.09 / 100, 2 * 0.25 / 10])
    sigma2 = (0.4**2 - v.sum()) / 2
    assert sigma2 > 0
    weight = pair_precision(cells, np.array([[0, 1], [2, 3]]))
    np.testing.assert_allclose(weight.mean(), 1)
    np.testing.assert_allclose(weight[0] / weight[1], (v[1] + sigma2) / (v[0] + sigma2))
    # Without effects beyond noise the weights are the inverse variances.
    still = cells.assign(p=[np.array([0.5, 0.5])] * 4)
    weight = pair_precision(still, np.array([[0, 1], [2, 3]]))
    np.testing.assert_allclose(weight[0] / weight[1], 10)
