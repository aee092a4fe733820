import numpy as np
import pandas as pd
import pytest

from ace_jax.evaluation.worth import squared_errors, worth_table


def surveys(draw, questions, asked, n=200, cells=8, bias=0.0):
    """Cells of many simulated surveys; the model's answers are a sample of `asked` respondents."""
    rows = pd.MultiIndex.from_product(
        [range(300), range(questions), range(cells)], names=["run", "question_id", "cell"]
    ).to_frame(index=False)
    truth = draw.dirichlet(np.full(4, 2.0), len(rows))
    answered = draw.multinomial(asked, truth) / asked
    answered = (1 - bias) * answered + bias * np.array([1.0, 0, 0, 0])
    return rows.assign(
        effective_n=float(n),
        p_data=list(draw.multinomial(n, truth) / n),
        p_model=list(answered),
    )


@pytest.mark.parametrize("asked", [10, 60])
def test_a_sample_is_worth_its_respondents(asked):
    table = surveys(np.random.default_rng(0), 12, asked)
    found = worth_table(squared_errors(table), ["run"])
    assert found["worth"].median() == pytest.approx(asked, rel=0.05)
    covered = (found["worth_low"] <= asked) & (asked <= found["worth_high"])
    assert 0.92 <= covered.mean() <= 0.98
    assert found[["n_questions", "n_cells"]].drop_duplicates().to_numpy().tolist() == [[12, 96]]


def test_the_truth_is_worth_more_than_the_survey_and_a_mistake_little():
    table = surveys(np.random.default_rng(1), 12, 10**6)
    assert worth_table(squared_errors(table), ["run"])["worth_high"].eq(np.inf).mean() > 0.9
    wrong = surveys(np.random.default_rng(1), 12, 10**6, bias=0.5)
    assert worth_table(squared_errors(wrong), ["run"])["worth_high"].max() < 10
