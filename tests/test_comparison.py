"""Methods side by side: paired gains, seeds, tests, and what cannot be compared."""

import numpy as np
import pandas as pd
import pytest
from survey_tables import answered, persona_table, questions_of

from ace_jax.errors import InputError
from ace_jax.evaluation.alignment import alignment_table, scored_cells
from ace_jax.evaluation.comparison import difference_table, gain_table
from ace_jax.survey.personas import ATTRIBUTES

QUESTIONS = tuple(f"q{i}" for i in range(12))


def cells(model_seed, questions=QUESTIONS, near=0.5):
    table = persona_table(["MEX", "USA"], questions)
    truth = np.random.default_rng(0).dirichlet(np.ones(4), len(table))
    other = np.random.default_rng(model_seed).dirichlet(np.ones(4), len(table))
    model = near * truth + (1 - near) * other
    predictions = answered(table, truth, model, np.random.default_rng(1))
    return scored_cells(predictions, questions_of(table, ("a", "b", "c")), ATTRIBUTES)


@pytest.mark.parametrize("average", ["nested", "flat"])
def test_a_gain_is_the_difference_of_two_scores(average):
    runs = {"base": cells(2), "ace": cells(3, near=0.8)}
    table = gain_table(runs, average).set_index(["country", "run"])
    scores = {name: alignment_table(of, average).set_index("country") for name, of in runs.items()}
    for name, of in scores.items():
        at = table.xs(name, level="run")
        columns = ["score", "ci_low", "ci_high"]
        assert np.allclose(at[columns], of.loc[at.index, columns])
    gain = scores["ace"]["score"] - scores["base"]["score"]
    assert table["gain"].xs("ace", level="run").to_dict() == pytest.approx(gain.to_dict())
    assert (table["gain"].xs("base", level="run") == 0).all()
    assert table["p_value"].xs("base", level="run").isna().all()
    assert (table["p_value"].xs("ace", level="run") < 0.01).all()


def test_a_gain_is_paired():
    first = cells(2)
    later = first.assign(score=first["score"] + 1)
    table = gain_table({"base": first, "ace": later}, "flat").set_index(["country", "run"])
    for column in ("gain", "gain_low", "gain_high"):  # every question gains the same
        assert table.loc[("ALL", "ace"), column] == pytest.approx(1)
    assert table["ci_high"]["ALL", "ace"] - table["ci_low"]["ALL", "ace"] > 1


@pytest.mark.parametrize("average", ["nested", "flat"])
def test_a_difference_is_the_gain_of_one_method_over_another(average):
    runs = {"base": cells(2), "ace": [cells(3), cells(4)], "kl": [cells(5), cells(6)]}
    table = difference_table(runs, average).set_index(["run", "other"])
    assert sorted(table.index) == [("ace", "base"), ("kl", "ace"), ("kl", "base")]
    for run, other in table.index:
        gains = gain_table({other: runs[other], run: runs[run]}, average)
        of = gains.set_index(["country", "run"]).loc["ALL", run]
        expected = of[["gain", "gain_low", "gain_high", "p_value", "n_questions"]].astype(float)
        columns = ["difference", "difference_low", "difference_high", "p_value", "n_questions"]
        assert np.allclose(table.loc[(run, other), columns].astype(float), expected)


def test_seeds_are_averaged_and_their_spread_is_added():
    base, seeds = cells(2), [cells(3), cells(4), cells(5)]
    of_one = pd.concat([gain_table({"base": base, "ace": seed}, "flat") for seed in seeds])
    apart = of_one[of_one["run"] == "ace"].groupby("country")
    table = gain_table({"base": base, "ace": seeds}, "flat").set_index(["country", "run"])
    ace = table.xs("ace", level="run")
    for column in ("score", "gain"):
        assert ace[column].to_dict() == pytest.approx(apart[column].mean().to_dict())
    assert ace["seed_sd"].to_dict() == pytest.approx(apart["score"].std(ddof=1).to_dict())
    assert (ace["n_seeds"].unique(), ace["n_cells"]["USA"]) == ([3], 16 * len(QUESTIONS))
    # As if there were no difference between seeds: questions alone.
    mean = base.assign(score=np.mean([seed["score"] for seed in seeds], axis=0))
    still = gain_table({"base": base, "ace": mean}, "flat").set_index(["country", "run"])
    width, less = (t["gain_high"] - t["gain_low"] for t in (table, still))
    assert (width > less).xs("ace", level="run").all()
    assert table["gain"].to_dict() == pytest.approx(still["gain"].to_dict())


@pytest.mark.parametrize("questions", [QUESTIONS, QUESTIONS[:1]])
def test_a_run_given_twice_says_no_more_than_once(questions):
    one = cells(2, questions)
    pooled = pd.concat([one.assign(seed=seed) for seed in (0, 1)], ignore_index=True)
    for average in ("nested", "flat"):
        pd.testing.assert_frame_equal(
            alignment_table(pooled, average), alignment_table(one, average), rtol=1e-9
        )


def test_seeds_that_hold_out_other_questions_are_compared_seed_by_seed():
    halves = (QUESTIONS[:7], QUESTIONS[5:])
    runs = {name: [cells(seed, half) for half in halves] for name, seed in (("a", 2), ("b", 3))}
    table = gain_table(runs, "flat").set_index(["country", "run"])
    gains = [
        gain_table({"a": first, "b": second}, "flat").set_index(["country", "run"])["gain"]
        for first, second in zip(*runs.values(), strict=True)
    ]
    assert table["gain"].to_dict() == pytest.approx(((gains[0] + gains[1]) / 2).to_dict())
    assert table["n_questions"]["USA", "b"] == len(QUESTIONS)


def test_runs_of_other_cells_are_refused():
    others = cells(3, ("x", *QUESTIONS[1:]))
    with pytest.raises(InputError, match="base and ace were not evaluated on the same cells"):
        gain_table({"base": cells(2), "ace": others}, "flat")
    with pytest.raises(InputError, match="base has 2 seeds and ace 3"):
        gain_table({"base": 2 * [cells(2)], "ace": 3 * [cells(3)]}, "flat")
