"""Tables of predictions for tests of the analysis: answers drawn from known distributions."""

import numpy as np
import pandas as pd

from ace_jax.survey.personas import ATTRIBUTES, personas


def persona_table(countries, questions, granularities=(4,), n=60, attributes=ATTRIBUTES):
    """A row a cell, without answers; country by country, question by question."""
    rows = [{"granularity": g, **p} for g in granularities for p in personas(attributes, g)]
    contexts = pd.DataFrame({"country": countries}).merge(
        pd.DataFrame({"question_id": questions}), how="cross"
    )
    table = contexts.merge(pd.DataFrame(rows), how="cross")
    return table.assign(n=n, effective_n=np.float64(n))


def answered(table, truth, model, draws):
    """Predictions: p_data drawn from `truth` with each cell's n, p_model given (cells x K)."""
    n = table["n"].to_numpy()
    data = draws.multinomial(n, truth) / n[:, None]
    score = 1 - np.abs(np.cumsum(data - model, axis=1))[:, :-1].sum(axis=1) / (truth.shape[1] - 1)
    return table.assign(p_data=list(data), p_model=list(np.asarray(model)), score=score)


def questions_of(table, topics=("topic",)):
    """Questions in turn of each topic."""
    ids = table["question_id"].drop_duplicates().to_list()
    topic = [topics[i % len(topics)] for i in range(len(ids))]
    return pd.DataFrame({"question_id": ids, "topic": topic})
