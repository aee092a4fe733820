"""The same cells asked in other ways."""

import numpy as np
import pandas as pd
import pytest

from ace_jax.evaluation.answers import Answers
from ace_jax.evaluation.pitfalls import UNALTERED, Variant, alterations, audit_table
from ace_jax.prompts.encode import PromptStyle
from ace_jax.survey.dataset import read_dataset, select_questions

GSS = select_questions(read_dataset("gss2018"), ("natspac", "abany"))
CELLS = GSS.cells[GSS.cells["granularity"] == 4].reset_index(drop=True)


def ways_to_ask(template, option_style):
    style = PromptStyle.of(template, option_style)
    return {UNALTERED: Variant(style)} | alterations(style)


def lines_of(variant):
    """The first cell's prompt by line, without blanks, and its labels."""
    prompt = variant.texts(CELLS, GSS)[0]
    return [line for line in prompt.text.splitlines() if line], prompt.labels


def test_each_variant_differs_in_one_thing():
    ways = ways_to_ask("question_first", "number")
    assert list(ways) == [UNALTERED, "reversed_options", "letter_labels", "persona_first"]
    (plain, labels), (turned, same) = lines_of(ways[UNALTERED]), lines_of(ways["reversed_options"])
    texts = list(GSS.questions["option_labels"][0])
    assert labels == same == ("1", "2", "3")
    expected = [f"{label}. {text}" for label, text in zip("123", texts, strict=True)]
    assert plain[1:4] == expected
    assert turned[1:4] == [
        f"{label}. {text}" for label, text in zip("123", texts[::-1], strict=True)
    ]
    assert turned[:1] + turned[4:] == plain[:1] + plain[4:]

    letters, labels = lines_of(ways["letter_labels"])
    assert labels == ("A", "B", "C")
    assert letters[1:4] == [f"{label}. {text}" for label, text in zip("ABC", texts, strict=True)]
    assert letters[:1] + letters[4:] == plain[:1] + plain[4:]

    other, labels = lines_of(ways["persona_first"])
    assert labels == ("1", "2", "3")
    assert [line for line in other if line[0] in "123"] == expected
    assert other.index(expected[0]) > other.index("- Male")


def test_the_variants_of_another_style_go_the_other_way():
    assert list(ways_to_ask("persona_first", "letter"))[2:] == ["number_labels", "question_first"]
    assert list(ways_to_ask("anthropological", "number"))[3:] == ["persona_first", "question_first"]


def test_answers_come_back_in_the_surveys_order():
    ways = ways_to_ask("question_first", "number")
    given = Answers([np.array([0.1, 0.2, 0.7]), np.array([0.4, 0.6])], np.array([0.5, 0.25]))
    turned = ways["reversed_options"].in_order(given)
    assert [p.tolist() for p in turned.p] == [[0.7, 0.2, 0.1], [0.6, 0.4]]
    assert turned.option_mass is given.option_mass
    assert ways["letter_labels"].in_order(given) is given


def test_the_table_says_what_moved():
    """Unaltered answers are the survey's; altered ones move all mass by a known distance."""
    cells = pd.DataFrame(
        {
            "country": ["USA", "USA", "USA", "MEX"],
            "question_id": ["a", "b", "a", "a"],
            "granularity": [1, 1, 2, 1],
            "p": [np.eye(3)[0]] * 4,
        }
    )
    plain = Answers([np.eye(3)[0]] * 4, np.full(4, 0.5))
    other = Answers([np.eye(3)[k] for k in (0, 1, 2, 2)], np.array([0.1, 0.3, 0.8, 0.6]))
    table = audit_table(cells, {UNALTERED: plain, "other": other})
    assert list(table.columns) == [
        "variant",
        "granularity",
        "n_cells",
        "n_questions",
        "score",
        "ci_low",
        "ci_high",
        "moved",
        "option_mass",
    ]
    plain, of_other = (table[table["variant"] == name] for name in (UNALTERED, "other"))
    assert plain["score"].tolist() == [1, 1]
    assert plain["moved"].tolist() == [0, 0]
    # G = 1: the USA's cells moved by 0 and 1/2, Mexico's by 1; countries count alike.
    assert of_other["granularity"].tolist() == [1, 2]
    assert of_other["n_cells"].tolist() == [3, 1]
    assert of_other["moved"].tolist() == pytest.approx([(0.25 + 1) / 2, 1])
    assert of_other["score"].tolist() == pytest.approx([1 - 0.625, 0])
    assert of_other["option_mass"].tolist() == pytest.approx([(0.2 + 0.6) / 2, 0.8])
