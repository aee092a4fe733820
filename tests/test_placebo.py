"""The placebo of benchmarks/placebo.py: true answers under labels drawn for each question."""

import runpy
from pathlib import Path

import numpy as np

from ace_jax import load_survey

PLACEBO = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "placebo.py"))


def test_labels_change_in_each_question_and_answers_stay():
    survey = load_survey("eqls2011")
    placebo = PLACEBO["permuted"](survey, 3)
    moved = set()
    for (question, true), (other, its) in zip(
        survey.cells.groupby("question_id", sort=False),
        placebo.cells.groupby("question_id", sort=False),
        strict=True,
    ):
        assert question == other
        assert np.array_equal(np.concatenate(list(true["p"])), np.concatenate(list(its["p"])))
        assert true["n"].tolist() == its["n"].tolist()
        names = dict(zip(true["country"], its["country"], strict=True))
        assert len(names) == len(set(names.values())) == 33
        assert its["country"].tolist() == true["country"].map(names).tolist()
        moved.add(tuple(names.values()))
        for attribute in survey.attributes:
            levels = true[attribute.name].dropna()
            assert its.loc[its[attribute.name].notna(), attribute.name].nunique() == 2
            changed = its[attribute.name].to_numpy()[true[attribute.name].notna()]
            assert len(set(zip(levels, changed, strict=True))) == 2
    assert len(moved) == len(survey.questions)
    flipped = placebo.cells["gender"].dropna().to_numpy() != survey.cells["gender"].dropna()
    assert 0.2 < flipped.mean() < 0.8
