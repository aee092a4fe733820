"""References: answers that need no language model, fitted on the cells that training may see.

uniform       the same probability for every option
mean          the mean answer to the training questions with as many options ("like questions");
              uniform if there are none
mean_effect   the mean (of a question that training saw: its own), moved by the mean effects of
              attributes on like questions
nearest       the same country's and persona's answer to the like question that is worded most
              alike (TF-IDF); a question that training saw is its own nearest
mean_nearest  the mean, moved as the nearest question's answers differ from their mean: the words of
              a question tell who says more, not how much all say
persona       the persona's mean over the countries that training saw
main_effects  the question's mean and what the country and the persona add to it, in log odds
no_effect     the country's answer to the question, the same for every persona
mode          all mass on the most frequent answer of the cell itself: a perfect answer to what the
              anchor loss asks for (Eq. 13)

The last two are oracles: they use what no model sees. All others use only cells that training may
see and that name all attributes. Coarser cells include respondents whose personas are held out, so
a coarser persona is made of the finest ones. `persona` and `main_effects` give unseen questions the
mean. `nearest` gives the persona's mean where training did not see the persona in the country, and
the question's where it did not see the persona at all; so does `persona`. Of a cell that training
saw, `nearest` and `mean_nearest` are the cell itself, and `main_effects` an in-sample fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from ace_jax.errors import InputError
from ace_jax.evaluation.alignment import Distributions
from ace_jax.evaluation.answers import Answers
from ace_jax.evaluation.nearest import nearest_questions
from ace_jax.prompts.encode import Question
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.pairs import mode, toggle_pairs

ORACLES = ("no_effect", "mode")
# Of cells that training saw: they are fitted on them.
REPEATS = ("nearest", "mean_nearest", "main_effects")
REFERENCES = (
    *("uniform", "mean", "mean_effect", "nearest", "mean_nearest", "persona", "main_effects"),
    *ORACLES,
)
HALF = 0.5  # respondents: smooths the shares of a cell before their logarithm
SHRINK = 10  # respondents: so many halve a main effect
ROUNDS = 10  # of backfitting


@dataclass(frozen=True)
class _Table:
    """What training may see of a question: respondents by option, and each country's answer."""

    counts: Float[np.ndarray, "countries personas K"]
    country_answers: Float[np.ndarray, "seen K"]

    @property
    def mean(self) -> Float[np.ndarray, "K"]:
        """The question's mean; countries count alike."""
        return self.country_answers.mean(axis=0)

    @property
    def personas(self) -> Float[np.ndarray, "personas K"]:
        """The mean of each persona over respondents, or the question's mean."""
        return _shares(self.counts.sum(axis=0), self.mean)

    @property
    def cells(self) -> Float[np.ndarray, "countries personas K"]:
        """The answer of each country and persona, or the persona's mean."""
        return _shares(self.counts, self.personas)

    @property
    def differences(self) -> Float[np.ndarray, "countries personas K"]:
        """How far the cumulative shares of each country and persona are from the mean's."""
        return np.cumsum(self.cells, axis=-1) - np.cumsum(self.mean)

    def main_effects(
        self, granularity: Int[np.ndarray, "personas"]
    ) -> Float[np.ndarray, "countries personas K"]:
        """Returns the sums of main effects, fitted to the personas of each granularity apart.

        Log shares are weighted by respondents. Who was not seen has no effect.
        """
        fitted = np.empty_like(self.counts)
        for alike in (granularity == g for g in np.unique(granularity)):
            counts = self.counts[:, alike]
            n = counts.sum(axis=2, keepdims=True)
            logs = np.log((counts + HALF / counts.shape[2]) / (n + HALF))
            mean = (n * logs).sum(axis=(0, 1)) / np.maximum(n.sum(), 1)
            country, persona = np.zeros_like(logs[:, :1]), np.zeros_like(logs[:1])
            for _ in range(ROUNDS):
                country = _effects(logs - mean - persona, n, axis=1)
                persona = _effects(logs - mean - country, n, axis=0)
            odds = np.exp(mean + country + persona)
            fitted[:, alike] = odds / odds.sum(axis=2, keepdims=True)
        return fitted


def reference_answers(
    cells: pd.DataFrame, dataset: Dataset, seen: Bool[np.ndarray, "all_cells"]
) -> dict[str, Answers]:
    """Returns the answers of all REFERENCES, in that order, to some cells of a survey.

    Args:
      cells: to answer: country, question_id, the attributes, and p, whose values only oracles use.
      dataset: the whole survey that they are of.
      seen: which of its cells training may see.

    Returns:
      Answers by name: float64 distributions in the order of `cells`, and an option_mass of 1.
      `mean` has a mark if training has no question with as many options as one to answer.
    """
    # A persona and a country have the same place in the survey's cells and in those to answer.
    both, known = pd.concat([dataset.cells, cells]), len(dataset.cells)
    personas, persona = np.unique(_levels(both, dataset), axis=0, return_inverse=True)
    country, countries = pd.factorize(both["country"])
    persona, shape = persona.reshape(-1), (len(countries), len(personas))
    granularity = (personas >= 0).sum(axis=1)
    learnt = seen & (granularity == len(dataset.attributes))[persona[:known]]
    tables = _tables(dataset.cells, learnt, country[:known], persona[:known], personas)
    alike: dict[int, list[np.ndarray]] = {}
    for table in tables.values():
        alike.setdefault(table.counts.shape[2], []).append(table.country_answers)
    means = {size: np.concatenate(answers).mean(axis=0) for size, answers in alike.items()}
    shifts = _mean_shifts(dataset, learnt, personas)
    truth, unknown = _country_answers(dataset.cells), list[str]()

    found = {name: [np.empty(0)] * len(cells) for name in REFERENCES}
    contexts = zip(cells["country"], cells["question_id"], strict=True)
    found["no_effect"] = [truth[context] for context in contexts]
    found["mode"] = [np.eye(len(p))[mode(p)] for p in cells["p"]]
    for question in map(str, cells["question_id"].unique()):
        rows = np.flatnonzero(cells["question_id"] == question)
        size, its = len(cells["p"].iloc[rows[0]]), tables.get(question)
        uniform = np.full(size, 1 / size)
        mean = means.get(size, uniform)
        if size not in means:
            unknown.append(question)
        near = its or _nearest(question, size, dataset.questions, tables)
        level = its.mean if its else mean
        given = {
            "uniform": uniform,
            "mean": mean,
            "mean_effect": moved(level, shifts.get(size)),
            "nearest": near.cells if near else mean,
            "mean_nearest": moved(level, near.differences if near else None),
            "persona": its.personas if its else mean,
            "main_effects": its.main_effects(granularity) if its else mean,
        }
        where = country[known + rows], persona[known + rows]
        for name, answers in given.items():
            answers = np.broadcast_to(answers, (*shape, size))[where]
            for row, p in zip(rows, answers, strict=True):
                found[name][row] = p
    mark = f"uniform where training has no scale of that size: {', '.join(unknown)}"
    marks = {"mean": (mark,)} if unknown else {}
    return {name: Answers(p, np.ones(len(cells)), marks.get(name, ())) for name, p in found.items()}


def _levels(cells: pd.DataFrame, dataset: Dataset) -> Int[np.ndarray, "cells attributes"]:
    """Returns the place of each attribute's level in a cell's persona, -1 where not named."""
    codes = [pd.Categorical(cells[each.name], each.levels).codes for each in dataset.attributes]
    return np.stack(codes, axis=1).astype(np.int64)


def _tables(
    cells: pd.DataFrame,
    learnt: Bool[np.ndarray, "cells"],
    country: Int[np.ndarray, "cells"],
    persona: Int[np.ndarray, "cells"],
    personas: Int[np.ndarray, "personas attributes"],
) -> dict[str, _Table]:
    """Returns what training may see, by question; cells that are learnt name all attributes."""
    full = (personas >= 0).all(axis=1)
    same = (personas[:, None] == personas[full]) | (personas[:, None] < 0)
    members = same.all(axis=2).astype(float)  # of each persona (rows): finest ones (columns)
    place, countries = np.cumsum(full) - 1, country.max(initial=-1) + 1
    tables = {}
    for question, its in cells.assign(row=np.arange(len(cells)))[learnt].groupby("question_id"):
        rows, p = its["row"].to_numpy(), np.stack(list(its["p"]))
        counts = np.zeros((countries, full.sum(), p.shape[1]))
        counts[country[rows], place[persona[rows]]] = its["n"].to_numpy()[:, None] * p
        answers = counts.sum(axis=1)
        answers = answers[answers.sum(axis=1) > 0]
        answers /= answers.sum(axis=1, keepdims=True)
        tables[str(question)] = _Table(members @ counts, answers)
    return tables


def _shares(
    counts: Float[np.ndarray, "*rows K"], otherwise: Float[np.ndarray, "*others K"]
) -> Float[np.ndarray, "*rows K"]:
    """Returns shares of respondents, and `otherwise` (broadcast) where there are none."""
    n = counts.sum(axis=-1, keepdims=True)
    return np.where(n > 0, counts / np.maximum(n, 1e-9), otherwise)


def _effects(
    rest: Float[np.ndarray, "countries personas K"],
    n: Float[np.ndarray, "countries personas 1"],
    axis: int,
) -> Float[np.ndarray, "some others K"]:
    """Returns the mean of what is left to explain along an axis, shrunk where n is small."""
    weight = n.sum(axis=axis, keepdims=True) + SHRINK
    return (n * rest).sum(axis=axis, keepdims=True) / weight


def _mean_shifts(
    dataset: Dataset,
    learnt: Bool[np.ndarray, "cells"],
    personas: Int[np.ndarray, "personas attributes"],
) -> dict[int, Float[np.ndarray, "personas K"]]:
    """Returns how far each persona's cumulative shares are from the mean, by number of options.

    The effect of one level over another is the mean over pairs of cells, weighted by 1 / (1/n_0 +
    1/n_1). A level is moved by the mean of its effects over all levels of its attribute, itself
    included: of two, half each way. Nothing is known of sizes without pairs.
    """
    cells = dataset.cells[learnt].reset_index(drop=True)
    try:
        pairs = toggle_pairs(cells, dataset.attributes, min_n=1)
    except InputError:
        return {}
    zero, one = pairs["cell_0"].to_numpy(), pairs["cell_1"].to_numpy()
    data, levels, n = Distributions.of(cells["p"]), _levels(cells, dataset), cells["n"].to_numpy()
    weight = (1 / (1 / n[zero] + 1 / n[one]))[:, None]
    effect = weight * (data.cumulative[one] - data.cumulative[zero])
    shifts = {}
    for size in np.unique(data.options[zero]):
        shift = np.zeros((len(personas), size))
        for place, attribute in enumerate(dataset.attributes):
            of = (data.options[zero] == size) & (pairs["attribute"] == attribute.name).to_numpy()
            ends = levels[zero[of], place], levels[one[of], place]
            total = np.zeros((len(attribute.levels), len(attribute.levels), size))
            weights = np.zeros((*total.shape[:2], 1))
            np.add.at(total, ends, effect[of, :size])
            np.add.at(weights, ends, weight[of])
            mean = total / np.maximum(weights, 1e-9)
            moved = (mean.sum(axis=0) - mean.sum(axis=1)) / len(attribute.levels)
            named = personas[:, place] >= 0
            shift[named] += moved[personas[named, place]]
        shifts[int(size)] = shift
    return shifts


def moved(
    p: Float[np.ndarray, "K"], shift: Float[np.ndarray, "*rows K"] | None
) -> Float[np.ndarray, "*rows K"]:
    """Returns an answer with shifted cumulative shares, made a distribution again."""
    if shift is None:
        return p
    shares = np.clip(np.cumsum(p) + shift, 0, 1)
    shares[..., -1] = 1
    return np.diff(np.maximum.accumulate(shares, axis=-1), axis=-1, prepend=0)


def _nearest(
    question_id: str, size: int, questions: pd.DataFrame, tables: Mapping[str, _Table]
) -> _Table | None:
    """Returns what is seen of the like question that is worded most alike, if there is one."""
    known = [name for name, table in tables.items() if table.counts.shape[2] == size]
    if not known:
        return None
    by_id = questions.set_index("question_id", drop=False)
    new = by_id.loc[question_id]
    asked = Question(str(new["text"]), tuple(new["option_labels"]), question_id)
    return tables[nearest_questions([asked], by_id.loc[known], 1)["nearest_id"].iloc[0]]


def _country_answers(cells: pd.DataFrame) -> dict[tuple[str, str], Float[np.ndarray, "_"]]:
    """Returns the answer of each country and question_id.

    It is the n-weighted mean of their finest cells, which count every respondent once.
    """
    context = ["country", "question_id"]
    finest = cells.groupby(context)["granularity"].transform("max") == cells["granularity"]
    return {
        (str(country), str(question)): np.average(list(its["p"]), axis=0, weights=its["n"])
        for (country, question), its in cells[finest].groupby(context)
    }
