"""Folds of questions, pooled (benchmarks/folds.py): every question counts once, as unseen."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from survey_tables import answered, persona_table

from ace_jax.errors import InputError
from ace_jax.evaluation.blocks import MODEL, block_table
from ace_jax.report.runs import Run
from ace_jax.survey.personas import ATTRIBUTES
from ace_jax.survey.split import HeldOut

FOLDS = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "folds.py"))
QUESTIONS, UNSEEN = ("q0", "q1", "q2", "q3"), ("AUT",)


@pytest.fixture(scope="module")
def predictions():
    draws = np.random.default_rng(0)
    table = persona_table(("DEU", "FRA", *UNSEEN), QUESTIONS, (1,), n=500)
    truth, model = (draws.dirichlet(np.ones(4), len(table)) for _ in range(2))
    return answered(table, truth, model, draws).assign(option_mass=1.0)


def fold(predictions, questions):
    held_out = {"questions": list(questions), "countries": list(UNSEEN), "personas": []}
    identity = {"held_out": held_out, "data": {"min_n": 10}}
    names = {attribute.name: list(attribute.levels) for attribute in ATTRIBUTES}
    return Run("fold", predictions, pd.DataFrame(), identity | {"attributes": names})


def test_pooled_folds_are_one_run_to_which_every_question_was_new(predictions):
    # What a fold says of questions that it was trained on is not used.
    wrong = predictions["p_model"].map(lambda p: np.roll(p, 1))
    folds = []
    for questions in (QUESTIONS[:2], QUESTIONS[2:]):
        own = predictions["question_id"].isin(questions)
        folds.append(
            fold(predictions.assign(p_model=predictions["p_model"].where(own, wrong)), questions)
        )
    whole = HeldOut(QUESTIONS, UNSEEN)
    expected = block_table({MODEL: [predictions]}, whole, folds[0].attributes, 10)
    pd.testing.assert_frame_equal(FOLDS["pooled"](folds), expected)
    assert set(expected["block"]) == {"unseen questions", "both unseen"}


def test_the_models_differences_are_joined_with_the_tables(predictions, tmp_path):
    cells = predictions.assign(cell=range(len(predictions)))
    alike = [np.full(4, 0.25)] * len(cells)
    parts = [
        pd.DataFrame({"reference": name, "cell": cells["cell"], "p": p})
        for name, p in (("mean", alike), ("mean_nearest", list(cells["p_data"])))
    ]
    path = tmp_path / "references.parquet"
    pd.concat(parts).to_parquet(path)
    table = FOLDS["pooled"]([replace(fold(cells, QUESTIONS), references=path)])
    its = table[table["block"] == "unseen questions"].set_index("run")
    slope = {name: its["attributes_slope"][name] for name in its.index}
    both = slope[f"mean_nearest + {MODEL}"]
    assert both == pytest.approx((slope["mean_nearest"] + slope[f"mean + {MODEL}"]) / 2, abs=1e-9)
    assert slope["mean"] == 0


def test_a_question_in_two_folds_is_refused(predictions):
    folds = [fold(predictions, QUESTIONS[:2]), fold(predictions, QUESTIONS[1:3])]
    with pytest.raises(InputError, match="held out the same question"):
        FOLDS["pooled"](folds)
