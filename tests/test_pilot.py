"""A model and a sample together (benchmarks/pilot.py): by hand, and where the truth is known."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

PILOT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "pilot.py"))


@pytest.mark.parametrize(("true_strength", "low", "high"), [(20, 12, 35), (400, 150, 3000)])
def test_a_prior_counts_for_as_many_respondents_as_it_is_worth(true_strength, low, high):
    draws = np.random.default_rng(0)
    sizes = np.where(np.arange(600) % 2, 3, 5)
    prior = [draws.dirichlet(2 * np.ones(size)) for size in sizes]
    truth = [draws.dirichlet(true_strength * p) for p in prior]
    n = draws.integers(5, 60, 600).astype(float)
    sample = [draws.multinomial(int(k), p) / k for k, p in zip(n, truth, strict=True)]
    answers, strength = PILOT["with_sample"](prior, sample, n)
    assert low < strength < high

    def error(of):
        return np.mean([np.abs(a - b).sum() for a, b in zip(of, truth, strict=True)])

    assert error(answers) < min(error(prior), error(sample))
    assert all(p.sum() == pytest.approx(1) for p in answers)
    assert [len(p) for p in answers] == sizes.tolist()


def test_a_group_that_was_not_asked_keeps_its_prior():
    prior = [np.array([0.5, 0.3, 0.2])]
    answers, _ = PILOT["with_sample"](prior, [np.array([1.0, 0, 0])], np.array([0.0]))
    assert np.allclose(answers[0], prior[0], atol=1e-3)


def test_the_others_are_all_less_the_sample():
    cells = pd.DataFrame(
        {"country": "AUT", "question_id": ["q", "r"], "gender": "Male", "n": [40, 12]}
    )
    cells["p"] = [np.array([0.5, 0.5]), np.array([0.25, 0.75])]
    sample = cells.iloc[[0, 1]].assign(n=[10, 4], p=[np.array([1.0, 0]), np.array([0.5, 0.5])])
    rest = PILOT["others"](cells, sample, ["gender"])
    assert rest["n"].tolist() == [30]
    assert np.allclose(rest["p"].iloc[0], [10 / 30, 20 / 30])
