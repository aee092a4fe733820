"""How near a new question is to what an adapter has learnt, and how it does on such questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ace_jax.evaluation.answers import Answers, mean_of, predictions_table
from ace_jax.evaluation.nearest import nearest_questions
from ace_jax.evaluation.ways import coarsest
from ace_jax.experiment import Experiment
from ace_jax.language_model import LanguageModel
from ace_jax.prompts.encode import Question, render_cells
from ace_jax.survey.dataset import Dataset

NEAREST, CELLS = 3, 200  # questions shown a question; cells scored a held-out question, on average


@dataclass(frozen=True)
class Familiarity:
    """What is known of new questions beside the answers.

    Attributes:
      nearest: a row a question and like question: columns of `nearest_questions`, then seen
        (whether training saw it), survey_answer (shares by option, over all countries) and score
        (0-100, the adapter's on the question if it was held out).
      warnings: a sentence each.
    """

    nearest: pd.DataFrame
    warnings: tuple[str, ...]


def familiarity(
    model: LanguageModel,
    questions: Sequence[Question],
    personas: Sequence[Mapping[str, str]],
) -> Familiarity:
    """Compares what is asked with the survey that an adapter learned from.

    Where the survey is not at hand, or the adapter has no record, a warning says so and `nearest`
    is empty.
    """
    record = model.experiment
    if record is None:
        return Familiarity(pd.DataFrame(), ("what the model was trained on is not recorded",))
    survey = record.survey.reopened()
    if survey is None:
        where = f"{record.survey.name}, read from {record.survey.path}"
        lost = f"the survey it was trained on ({where}) is not at hand: no like questions are shown"
        return Familiarity(pd.DataFrame(), (*_unseen(personas, record, None), lost))
    known = survey.questions[["question_id", "text", "option_labels"]]
    nearest = nearest_questions(questions, known, NEAREST)
    seen = ~nearest["nearest_id"].isin(record.held_out.questions)
    of_all = survey.cells.groupby("question_id")
    answers = {name: np.average(list(its["p"]), axis=0, weights=its["n"]) for name, its in of_all}
    said = [" ".join(f"{share:.2f}" for share in answers[name]) for name in nearest["nearest_id"]]
    scores = _scores(model, survey, sorted(set(nearest.loc[~seen, "nearest_id"])))
    score = nearest["nearest_id"].map(scores).astype(float)
    table = nearest.assign(seen=seen, survey_answer=said, score=score)
    return Familiarity(table, _unseen(personas, record, survey))


def _unseen(
    personas: Sequence[Mapping[str, str]], record: Experiment, survey: Dataset | None
) -> tuple[str, ...]:
    """Returns a warning for each country and level that training has not seen."""
    seen: dict[str, set[str]] = {
        "country": set(record.survey.countries) - set(record.held_out.countries)
    }
    if survey is not None:
        cells = survey.cells[~record.held_out.cells(survey)]
        cells = cells[cells["n"] >= record.recipe.min_n]
        names = ["country", *record.survey.attributes]
        seen = {name: set(cells[name].dropna()) for name in names}
    asked = {(name, value) for persona in personas for name, value in persona.items()}
    return tuple(
        f"{name} {value}: training saw no answers of it; treat its answers as a guess"
        for name, value in sorted(asked)
        if name in seen and value not in seen[name]
    )


def _scores(model: LanguageModel, survey: Dataset, ids: Sequence[str]) -> dict[str, float]:
    """Returns the model's mean score (0-100) on questions of the survey, at the coarsest cells."""
    if not ids:
        return {}
    of_ids = survey.cells[survey.cells["question_id"].isin(ids)]
    cells = of_ids.iloc[coarsest(of_ids, CELLS * len(ids))].reset_index(drop=True)
    orders = model.style.listings
    texts = {str(key): render_cells(cells, survey, model.style, key) for key in orders}
    answers: dict[str, Answers] = model.ask(texts)
    predictions = predictions_table(cells, mean_of(list(answers.values())))
    means = 100 * predictions.groupby("question_id")["score"].mean()
    return {str(name): float(score) for name, score in means.items()}
