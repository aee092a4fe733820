"""Both orders of the options: what is asked, what is scored, and how far the order moves it."""

import numpy as np
import pytest

from ace_jax.evaluation import orders as orders_module
from ace_jax.evaluation.answers import Answers
from ace_jax.evaluation.orders import FIRST, OTHER, Orders, described
from ace_jax.prompts.encode import PromptStyle
from ace_jax.survey.dataset import read_dataset, select_questions

TWO = select_questions(read_dataset("gss2018"), ("natspac", "abany"))
CELLS = TWO.cells[TWO.cells["granularity"] == 4].reset_index(drop=True)


def orders_of(option_order="as_given"):
    return Orders.of(PromptStyle.of("question_first", option_order=option_order), CELLS)


def given(orders):
    """Answers in which all cells have the first option, or in the other order the two others."""
    of = {FIRST: ([1.0, 0, 0], len(CELLS)), OTHER: ([0, 0.5, 0.5], len(orders.turned))}
    return {
        name: Answers([np.asarray(p)] * n, np.full(n, 0.5 + (name == OTHER) / 4))
        for name, (p, n) in of.items()
    }


def test_only_the_order_differs():
    texts = orders_of().texts(TWO)
    (plain, labels), (turned, other) = (
        ([line for line in texts[name][0].text.splitlines() if line], texts[name][0].labels)
        for name in (FIRST, OTHER)
    )
    assert (labels, other) == (("1", "2", "3"), ("3", "2", "1"))
    options = list(TWO.questions["option_labels"].iloc[0])
    assert plain[1:4] == [f"{k}. {text}" for k, text in zip("123", options, strict=True)]
    assert [line[3:] for line in turned[1:4]] == options[::-1]
    assert turned[:1] + turned[4:] == plain[:1] + plain[4:]


def test_the_gap_is_the_mean_distance_between_both_orders(monkeypatch):
    monkeypatch.setattr(orders_module, "GAP_CELLS", 3)
    orders = orders_of()
    rows = orders.turned
    assert len(rows) == 3 and (CELLS["granularity"].iloc[rows] == CELLS["granularity"].min()).all()
    answers = given(orders)
    gap = orders.gap(answers)
    # From the first of three options to the other two alike: (1/2 + 1) / 2.
    assert gap["mean"] == pytest.approx(0.75)
    assert gap["n_cells"] == 3
    assert set(gap["questions"]) == set(CELLS["question_id"].iloc[rows])
    assert "75.0 of 100 points" in described(gap)
    assert orders.settle(answers) is answers[FIRST]


def test_with_both_orders_the_answer_is_their_mean():
    orders = orders_of("both")
    assert len(orders.turned) == len(CELLS)
    settled = orders.settle(given(orders))
    assert settled.p[0].tolist() == [0.5, 0.25, 0.25]
    assert settled.option_mass[0] == 0.625


def test_with_reversed_options_the_other_order_is_the_surveys():
    plain, turned = (orders_of(order).texts(TWO) for order in ("as_given", "reversed"))
    assert turned[FIRST][0] == plain[OTHER][0]
    assert turned[OTHER][0] == plain[FIRST][0]
