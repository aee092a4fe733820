"""What the same cells answer when asked otherwise."""

import numpy as np
import pandas as pd
import pytest

from ace_jax.errors import InputError
from ace_jax.evaluation.answers import UNALTERED, Answers, audit_table
from ace_jax.runtime.saved_answers import Progress


@pytest.mark.parametrize("part", ["p", "option_mass"])
def test_answers_that_are_not_numbers_are_refused(part):
    answered = Progress.empty(2, 3)
    getattr(answered, part)[1] = np.nan
    with pytest.raises(InputError, match="answers are not numbers; check the weights"):
        answered.by_name({})


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
