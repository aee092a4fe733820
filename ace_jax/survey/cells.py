"""Cells: what each persona answered to each question, as a distribution (paper 3.1, Eq. 8)."""

import numpy as np
import pandas as pd

from ace_jax.survey.codebook import Question
from ace_jax.survey.personas import combinations
from ace_jax.survey.respondents import Respondents


def aggregate(respondents: Respondents) -> pd.DataFrame:
    """Returns a cell for every persona of every granularity, country and question answered.

    Columns: `source`, `country` (alpha-3), `question_id`, `granularity` (int64), one column an
    attribute (level name, missing where the persona does not name it), `n` (int64, respondents
    with a valid answer), `effective_n` (float64, Kish's (sum w)^2 / sum w^2), `p` (float64 array,
    weighted shares in option order). Cells that nobody answered are left out. Respondents that
    lack the level of an attribute are in no cell.
    """
    frame = respondents.frame.assign(country=respondents.frame["country"].astype("category"))
    attributes, questions = respondents.attributes, respondents.questions
    names = [attribute.name for attribute in attributes]
    width = max(len(question.option_codes) for question in questions)
    finest = pd.concat([_sums(frame, names, question, width) for question in questions])
    order = pd.CategoricalDtype([question.question_id for question in questions])
    finest["question_id"] = finest["question_id"].astype(order)
    sums = pd.concat(
        [
            _coarsened(finest, [attribute.name for attribute in chosen])
            for granularity in range(1, len(attributes) + 1)
            for chosen in combinations(attributes, granularity)
        ]
    ).sort_values("question_id", kind="stable", ignore_index=True)
    return _cells(sums, names, questions)


def _sums(frame: pd.DataFrame, names: list[str], question: Question, width: int) -> pd.DataFrame:
    """Sums over finest personas: `n`, `w2` (squared weights), 0..width-1 (weight an option).

    Everything a coarser cell needs is a sum of these, so respondents are passed over once.
    """
    keys = ["country", *names]
    answered = frame[frame[question.question_id].notna()]
    answer = answered[question.question_id].to_numpy()
    weight = answered["weight"].to_numpy()
    chosen = answer[:, None] == np.array(question.option_codes)
    sums = pd.DataFrame(chosen * weight[:, None], index=answered.index)
    sums = sums.reindex(columns=range(width), fill_value=0.0).assign(n=1, w2=weight**2)
    sums = pd.concat([answered[keys], sums], axis=1).groupby(keys, observed=True).sum()
    return sums.reset_index().assign(question_id=question.question_id)


def _coarsened(finest: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    sums = finest.groupby(["question_id", "country", *names], observed=True).sum(numeric_only=True)
    # Levels as plain text, because the next part may not name these attributes at all.
    return sums.reset_index().astype(dict.fromkeys(names, object))


def _cells(sums: pd.DataFrame, names: list[str], questions: tuple[Question, ...]) -> pd.DataFrame:
    source = {question.question_id: question.source for question in questions}
    options = {question.question_id: len(question.option_codes) for question in questions}
    question_id = sums["question_id"].astype(object)
    weight = sums.drop(columns=["question_id", "country", *names, "n", "w2"]).to_numpy()
    total = weight.sum(axis=1)
    return pd.DataFrame(
        {
            "source": question_id.map(source),
            "country": sums["country"].astype(object),
            "question_id": question_id,
            "granularity": sums[names].notna().sum(axis=1),
            **{name: sums[name] for name in names},
            "n": sums["n"],
            "effective_n": total**2 / sums["w2"],
            "p": [
                row[:size]
                for row, size in zip(weight / total[:, None], question_id.map(options), strict=True)
            ],
        }
    )
