"""The ways in which an evaluation asks: other labels, templates and orders, and what they move."""

import numpy as np
import pytest

from ace_jax.evaluation import ways as ways_module
from ace_jax.evaluation.answers import UNALTERED, Answers
from ace_jax.evaluation.ways import OTHER, Ways, described
from ace_jax.prompts.encode import PromptStyle
from ace_jax.survey.dataset import read_dataset, select_questions

TWO = select_questions(read_dataset("gss2018"), ("natspac", "abany"))
CELLS = TWO.cells[TWO.cells["granularity"] == 4].reset_index(drop=True)


def ways_of(template="question_first", audit=True, **style):
    return Ways.of(PromptStyle.of(template, **style), CELLS, audit)


def lines_of(texts):
    """The first cell's prompt by line, without blanks, and its labels."""
    return [line for line in texts[0].text.splitlines() if line], texts[0].labels


def test_each_way_of_an_audit_differs_in_one_thing():
    ways = ways_of()
    names = [UNALTERED, OTHER, "letter_labels", "text_labels", "code_labels", "persona_first"]
    assert list(ways.ways) == names
    texts = ways.texts(TWO)
    (plain, labels), (turned, other) = lines_of(texts[UNALTERED]), lines_of(texts[OTHER])
    assert (labels, other) == (("1", "2", "3"), ("3", "2", "1"))
    options = list(TWO.questions["option_labels"].iloc[0])
    expected = [f"{label}. {text}" for label, text in zip("123", options, strict=True)]
    assert plain[1:4] == expected
    assert [line[3:] for line in turned[1:4]] == options[::-1]
    assert turned[:1] + turned[4:] == plain[:1] + plain[4:]
    letters, labels = lines_of(texts["letter_labels"])
    assert labels == ("A", "B", "C")
    assert letters[:1] + letters[4:] == plain[:1] + plain[4:]
    first, _ = lines_of(texts["persona_first"])
    assert first.index(expected[0]) > first.index("- Male")


def test_the_ways_of_another_style_go_the_other_way():
    assert list(ways_of("persona_first", option_style="letter").ways)[2] == "number_labels"
    assert list(ways_of("anthropological").ways)[-2:] == ["persona_first", "question_first"]


def given(ways, **p):
    """Answers in which every cell of a way has one distribution."""
    return {
        name: Answers(
            [np.asarray(p[name])] * len(way.rows), np.full(len(way.rows), 0.5 + (name == OTHER) / 4)
        )
        for name, way in ways.ways.items()
    }


def test_the_order_gap_is_the_mean_distance_between_both_orders(monkeypatch):
    monkeypatch.setattr(ways_module, "GAP_CELLS", 3)
    ways = ways_of(audit=False)
    assert list(ways.ways) == [UNALTERED, OTHER]
    rows = ways.ways[OTHER].rows
    assert len(rows) == 3 and (CELLS["granularity"].iloc[rows] == CELLS["granularity"].min()).all()
    answers = given(ways, **{UNALTERED: [1.0, 0, 0], OTHER: [0, 0.5, 0.5]})
    gap = ways.order_gap(answers)
    # From the first of three options to the other two alike: (1/2 + 1) / 2.
    assert gap["mean"] == pytest.approx(0.75)
    assert gap["n_cells"] == 3
    assert set(gap["questions"]) == set(CELLS["question_id"].iloc[rows])
    assert "75.0 of 100 points" in described(gap)
    assert ways.settle(answers) == {UNALTERED: answers[UNALTERED]}
    audited = ways_of()
    assert list(audited.settle(given(audited, **{name: [1.0, 0, 0] for name in audited.ways}))) == [
        *audited.ways
    ]


def test_with_both_orders_the_answer_is_their_mean():
    ways = ways_of(audit=False, option_order="both")
    assert len(ways.ways[OTHER].rows) == len(CELLS)
    answers = given(ways, **{UNALTERED: [1.0, 0, 0], OTHER: [0, 0.5, 0.5]})
    settled = ways.settle(answers)
    assert list(settled) == [UNALTERED]
    assert settled[UNALTERED].p[0].tolist() == [0.5, 0.25, 0.25]
    assert settled[UNALTERED].option_mass[0] == 0.625


def test_with_reversed_options_the_other_order_is_the_surveys():
    ways = ways_of(audit=False, option_order="reversed")
    assert [way.last_first for way in ways.ways.values()] == [True, False]
