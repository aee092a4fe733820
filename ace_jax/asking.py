"""What `ask` puts together: models, questions, personas, tables of answers, and how near a new
question is to what an adapter has learnt."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ace_jax.errors import InputError
from ace_jax.evaluation.answers import mean_of, predictions_table
from ace_jax.evaluation.asked import answers_table, shifts_table
from ace_jax.evaluation.nearest import nearest_questions
from ace_jax.evaluation.orders import coarsest
from ace_jax.experiment import Experiment, Prompt
from ace_jax.language_model import LanguageModel
from ace_jax.model.formats import peft
from ace_jax.prompts.encode import Question, attributes_named, render, render_cells
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.personas import ATTRIBUTES

NEAREST, CELLS = 3, 200  # questions shown a question; cells scored a held-out question, on average
SHIFTS = [
    *("model", "country", "question_id", "attribute", "from_level", "to_level", "option"),
    *("effect", "effect_reversed", "cumulative_effect", "mean_effect"),
]


@dataclass(frozen=True)
class Models:
    """Adapters that differ in their seed, a base model, or both; at least one."""

    adapters: tuple[LanguageModel, ...]
    base: LanguageModel | None

    @property
    def named(self) -> dict[str, tuple[LanguageModel, ...]]:
        """The models by the name that tables give them."""
        named = {"adapter": self.adapters} if self.adapters else {}
        return named | ({self.base.checkpoint.name: (self.base,)} if self.base else {})

    @property
    def attributes(self) -> dict[str, tuple[str, ...]]:
        """Levels by attribute that the adapters know; empty if that is not recorded."""
        record = self.adapters[0].experiment if self.adapters else None
        return dict(record.survey.attributes) if record else {}

    def shown_prompt(self, inquiry: "Inquiry") -> str:
        """Returns the text of the first prompt in each order of options, and its labels."""
        question, persona = inquiry.questions[0], inquiry.personas[0]
        blocks = []
        for name, (model, *_) in self.named.items():
            for last_first in model.style.listings:
                asked = (question.text, question.options, question.codes, persona)
                prompt = render(*asked, model.style, last_first)
                text = model.sent([prompt])[0]
                blocks.append(f"--- {name}: the prompt, up to its last line break\n{text}")
                blocks.append(f"--- {name}: the labels to compare\n" + "\n".join(prompt.labels))
        return "\n".join(blocks)


@dataclass(frozen=True)
class Inquiry:
    """What is asked of whom; every persona names its country."""

    questions: list[Question]
    personas: list[dict[str, str]]

    @classmethod
    def of(
        cls,
        questions: list[Question],
        countries: Sequence[str],
        named: Sequence[Mapping[str, str]],
        known: Mapping[str, Sequence[str]],
        weights: pd.DataFrame | None,
        every: bool,
    ) -> "Inquiry":
        """Puts personas together: those named, all (`every`), and those that `weights` weigh.

        A persona without a country is asked for in each of `countries`; without any persona the
        countries themselves are asked. Raises `InputError` for unknown countries, attributes or
        levels, or if no country is named.
        """
        people = [dict(each) for each in named]
        levels = known or {each.name: each.levels for each in ATTRIBUTES}
        if every:
            people += [dict(zip(levels, each, strict=True)) for each in product(*levels.values())]
        if weights is not None:
            rows = weights.drop(columns=["country", "weight"]).to_dict("records")
            people += [{str(name): str(level) for name, level in row.items()} for row in rows]
        if not countries and not all("country" in each for each in people or [{}]):
            raise InputError("--country: name a country (ISO 3166-1 alpha-3)")
        placed = [
            {"country": country, **each}
            for each in people or [{}]
            for country in ([each["country"]] if "country" in each else countries)
        ]
        attributes_named(placed, known)
        distinct = {frozenset(each.items()): each for each in placed}
        return cls(questions, list(distinct.values()))


@dataclass(frozen=True)
class Result:
    """Tables by file name, facts for ask.json and warnings."""

    tables: dict[str, pd.DataFrame]
    facts: dict[str, Any]
    warnings: tuple[str, ...]


def open_models(adapters: Sequence[Path], base: str | None, prompt: str | None) -> Models:
    """Opens the models of an inquiry.

    Raises `InputError` if there is none, an adapter is no adapter, or adapters differ in more than
    their seed, and for a prompt without a base model.
    """
    if not (adapters or base):
        raise InputError("give --adapter DIR, --model NAME, or both")
    if prompt and not base:
        raise InputError("--prompt: is of --model; an adapter is asked as it was trained")
    for path in adapters:
        peft.base_of(path)
    opened = tuple(LanguageModel.from_pretrained(path) for path in adapters)
    for path, model in zip(adapters[1:], opened[1:], strict=True):
        if other := _others(opened[0], model):
            raise InputError(
                f"--adapter {path}: has another {other} than {adapters[0]}; adapters of one call "
                "are to differ in their seed only"
            )
    style = prompt or (opened[0].style if opened else None)
    return Models(opened, LanguageModel.from_pretrained(base, prompt=style) if base else None)


def _others(one: LanguageModel, other: LanguageModel) -> str:
    """Returns what two adapters differ in, beside the seed and what it draws; empty: nothing."""
    if one.experiment and other.experiment:
        found = one.experiment.differences(other.experiment)
        drawn = ("seed", "split.seed", "split.held_out", "survey.examples")
        return ", ".join(name for name in found if not name.startswith(drawn))
    return "" if one.record == other.record and one.style == other.style else "base or record"


def ask_models(models: Models, inquiry: Inquiry) -> Result:
    """Asks every model, and puts the answers of all into one table each.

    The tables are answers.csv (`evaluation.asked.answers_table` with the column model), effects.csv
    (`shifts_table` of every attribute) and nearest.csv (`familiarity`, of the adapter).
    """
    tables, facts = [], {}
    for name, several in models.named.items():
        runs = [each.answers_by_order(inquiry.questions, inquiry.personas) for each in several]
        table = answers_table(runs, several[0].style.listings)
        table.insert(0, "model", name)
        tables.append(table)
        facts[name] = {
            "model": asdict(several[0].record),
            "prompt": asdict(Prompt.of(several[0].style)),
            "adapters": [peft.identity_of(each.adapter) for each in several if each.adapter],
        }
    answers = pd.concat(tables, ignore_index=True)
    names = [*answers.columns[2 : answers.columns.get_loc("question_id")]]
    shifts = [
        shifts_table(answers, name, [*answers[name].dropna().unique()])
        for name in names
        if answers[name].nunique() > 1
    ]
    effects = pd.concat(shifts or [pd.DataFrame(columns=SHIFTS)], ignore_index=True)
    who = [name for name in ("model", "country", *names) if name in effects]
    effects = effects[[*who, *effects.columns.drop(who)]]
    found = {"answers.csv": answers, "effects.csv": effects}
    warnings: tuple[str, ...] = ()
    if models.adapters:
        nearest, warnings = familiarity(models.adapters[0], inquiry)
        if len(nearest):
            found["nearest.csv"] = nearest
    return Result(found, {"models": facts, "warnings": list(warnings)}, warnings)


def familiarity(model: LanguageModel, inquiry: Inquiry) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Returns the survey's questions that are most like those asked, and warnings.

    The table has a row a question and like question: columns of `nearest_questions`, then seen
    (whether training saw it), survey_answer (shares by option, over all countries) and score
    (0-100, the adapter's on the question if it was held out). It is empty, and a warning says so,
    where the survey is not at hand or the adapter has no record.
    """
    record = model.experiment
    if record is None:
        return pd.DataFrame(), ("what the model was trained on is not recorded",)
    survey = record.survey.reopened()
    unseen = _unseen(inquiry.personas, record, survey)
    if survey is None:
        where = f"{record.survey.name}, read from {record.survey.path}"
        lost = f"the survey it was trained on ({where}) is not at hand: no like questions are shown"
        return pd.DataFrame(), (*unseen, lost)
    known = survey.questions[["question_id", "text", "option_labels"]]
    nearest = nearest_questions(inquiry.questions, known, NEAREST)
    seen = ~nearest["nearest_id"].isin(record.held_out.questions)
    of_all = survey.cells.groupby("question_id")
    answers = {name: np.average(list(its["p"]), axis=0, weights=its["n"]) for name, its in of_all}
    said = [" ".join(f"{share:.2f}" for share in answers[name]) for name in nearest["nearest_id"]]
    scores = _scores(model, survey, sorted(set(nearest.loc[~seen, "nearest_id"])))
    score = nearest["nearest_id"].map(scores).astype(float)
    return nearest.assign(seen=seen, survey_answer=said, score=score), unseen


def _unseen(
    personas: Sequence[Mapping[str, str]], record: Experiment, survey: Dataset | None
) -> tuple[str, ...]:
    """Returns a warning for each country and level that training has not seen."""
    seen = {"country": set(record.survey.countries) - set(record.held_out.countries)}
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
    answers = mean_of(list(model.ask(texts).values()))
    predictions = predictions_table(cells, answers)
    means = 100 * predictions.groupby("question_id")["score"].mean()
    return {str(name): float(score) for name, score in means.items()}
