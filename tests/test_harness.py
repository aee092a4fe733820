"""What the task for lm-evaluation-harness makes of a document."""

import math
import runpy

import pytest
from test_train import ROOT

SCORES = runpy.run_path(str(ROOT / "benchmarks/harness/survey_scores.py"))


def test_the_score_is_that_of_eq_15():
    """All mass on the first of three options, against the middle and the last alike."""
    document = {"p": [0.0, 0.5, 0.5]}
    results = [(math.log(0.25), True), (-100.0, False), (-100.0, False)]
    found = SCORES["process_results"](document, results)
    assert found == pytest.approx({"alignment": 25.0, "option_mass": 0.25})
