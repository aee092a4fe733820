"""Tables of averages moved by a model: by hand, and where the truth is known."""

import numpy as np
import pandas as pd
import pytest
from survey_tables import answered, persona_table

from ace_jax.errors import InputError
from ace_jax.evaluation.combined import LEAST, combined, levelled
from ace_jax.survey.personas import ATTRIBUTES

NAMES = [attribute.name for attribute in ATTRIBUTES]
SEEN, UNSEEN, K = ("DEU", "FRA", "ITA", "POL", "SWE"), ("AUT", "ESP"), 4


def made(share, seed=0):
    """Truth differs by country and persona; the model shows a share of the countries' part only."""
    draws = np.random.default_rng(seed)
    table = persona_table((*SEEN, *UNSEEN), tuple(f"q{i}" for i in range(6)), (1,), n=2000)
    odds = {}
    for name, alike in (("country", ["country"]), ("persona", NAMES)):
        code = table.groupby(["question_id", *alike], dropna=False).ngroup().to_numpy()
        odds[name] = 0.6 * draws.standard_normal((code.max() + 1, K))[code]
    truth, model = np.exp(odds["country"] + odds["persona"]), np.exp(share * odds["country"])
    truth, model = (p / p.sum(axis=1, keepdims=True) for p in (truth, model))
    predictions = answered(table, truth, model, draws).assign(option_mass=1.0)
    new = predictions["country"].isin(UNSEEN)
    return predictions[~new], predictions[new]


def table_score(seen, unseen):
    keys = ["question_id", *NAMES]
    means = {
        key: np.average(list(its["p_data"]), axis=0, weights=its["n"])
        for key, its in seen.fillna("").groupby(keys)
    }
    distances = [
        np.abs(np.cumsum(p - means[tuple(key)]))[:-1].sum() / (K - 1)
        for p, *key in unseen[["p_data", *keys]].fillna("").itertuples(index=False)
    ]
    return 1 - np.mean(distances)


def test_an_answer_by_hand():
    rows = [("DEU", [0.5, 0.5], [0.4, 0.6], 10), ("FRA", [0.7, 0.3], [0.6, 0.4], 30)]
    rows += [("AUT", [0.6, 0.4], [0.8, 0.2], 20)]
    table = pd.DataFrame(rows, columns=["country", "p_data", "p_model", "n"])
    table = table.assign(question_id="q", gender="Male")
    found = combined(table.iloc[:2], table.iloc[2:], ["gender"])
    average = np.array([0.65, 0.35])
    logs = [np.log(np.array(p) + LEAST) for p in ([0.8, 0.2], [0.4, 0.6], [0.6, 0.4])]
    odds = np.exp(np.log(average + LEAST) + found.weight * (logs[0] - (logs[1] + logs[2]) / 2))
    row = found.predictions.iloc[0]
    assert np.allclose(row["p_model"], odds / odds.sum())
    assert row["score"] == pytest.approx(1 - abs(row["p_model"][0] - 0.6))


def test_a_model_that_knows_countries_moves_the_table_towards_them():
    seen, unseen = made(share=1.0)
    found = combined(seen, unseen, NAMES)
    assert found.weight == pytest.approx(1, abs=0.1)
    assert found.predictions["score"].mean() > 0.98 > table_score(seen, unseen) + 0.02


def test_half_of_the_differences_are_doubled():
    assert combined(*made(share=0.5), NAMES).weight == pytest.approx(2, abs=0.2)


def test_a_model_that_knows_nothing_leaves_the_table_as_it_is():
    seen, unseen = made(share=0.0)
    found = combined(seen, unseen, NAMES)
    assert found.predictions["score"].mean() == pytest.approx(table_score(seen, unseen), abs=1e-3)


def test_a_level_is_kept_and_the_models_differences_move_it():
    rows = [("q", [0.2, 0.8], [0.5, 0.5]), ("q", [0.4, 0.6], [0.7, 0.3]), ("r", [1.0, 0.0], [0, 1])]
    table = pd.DataFrame(rows, columns=["question_id", "p_data", "p_model"])
    level = pd.Series([np.array([0.3, 0.7])] * 3)
    found = levelled(table, level)
    assert np.allclose(np.stack(found["p_model"]), [[0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
    assert found["score"].tolist() == pytest.approx([1, 1, 0.3])


def test_tables_that_do_not_fit_are_refused():
    seen, unseen = made(share=1.0)
    with pytest.raises(InputError, match="DEU is among the countries seen and the unseen"):
        combined(seen, seen, NAMES)
    with pytest.raises(InputError, match="needs two countries"):
        combined(seen[seen["country"] == "DEU"], unseen, NAMES)
    with pytest.raises(InputError, match="no question and persona"):
        combined(seen, unseen.assign(question_id="new"), NAMES)
