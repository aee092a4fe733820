"""All tables of a report. This module composes them; `evaluation` computes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.evaluation.alignment import alignment_table, scored_cells, topics_of
from ace_jax.evaluation.ceilings import cell_ceilings, effect_floors
from ace_jax.evaluation.comparison import (
    composition_table,
    convergence,
    difference_table,
    gain_table,
    tier_scores,
)
from ace_jax.evaluation.effects import class_shares, effect_summary, effect_table
from ace_jax.evaluation.uncertainty import ALL, Average
from ace_jax.report.runs import Method, Run, known_questions, marks_of
from ace_jax.survey.personas import Attribute
from ace_jax.survey.readers.sources import TIERS

EPSILON = 1.0  # points: the threshold of classes, where a single one is shown
EPSILONS = (0.5, EPSILON, 2.0, 3.0, 5.0)
NO_EFFECT, NOISE_FLOOR = "predicting no effect", "sampling noise alone"
IN_AUDIT = ("score", "ci_low", "ci_high", "moved", "option_mass")  # 0-1 there, 0-100 here

T = TypeVar("T")


@dataclass(frozen=True)
class Findings:
    """The tables of a report and what they are about.

    Methods have the same cells; gains are over the first one. `tables` are tidy means over a
    method's seeds: the columns of the function in `evaluation` that makes them, and `run`, the
    method's name. One that cannot be made is absent, and `notes` say why. `marks` are sentences
    that every reader must see, such as a mismatch that was allowed.
    """

    methods: tuple[Method, ...]
    references: tuple[str, ...]
    questions: pd.DataFrame
    average: Average
    tables: Mapping[str, pd.DataFrame]
    marks: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The methods' names, in order."""
        return [method.name for method in self.methods]

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attributes of the personas."""
        return self.methods[0].first.attributes

    @property
    def cells(self) -> pd.DataFrame:
        """The predictions of the first run: the cells and the survey's answers."""
        return self.methods[0].first.predictions

    @property
    def seeds(self) -> dict[str, int]:
        """The number of seeds of each method, if any has several."""
        seeds = {method.name: len(method.seeds) for method in self.methods}
        return seeds if max(seeds.values()) > 1 else {}

    @property
    def granularities(self) -> list[int]:
        """The granularities evaluated, in order."""
        return sorted(int(granularity) for granularity in self.cells["granularity"].unique())

    @property
    def shown(self) -> str:
        """The method to show beside the first: the best at the finest granularity, or the last."""
        scores = self.over_countries("scores").query("run in @self.names")
        finest = scores[scores["granularity"] == self.granularities[-1]]
        best = str(finest.sort_values("score")["run"].iloc[-1])
        return best if best != self.names[0] else self.names[-1]

    @property
    def yardsticks(self) -> pd.DataFrame:
        """The rows to compare effect distances with, under a name in the place of a method's."""
        distances = self.tables["effect_distances"]
        first = distances[distances["run"] == self.names[0]].drop(columns=["distance"])
        columns = {NO_EFFECT: "distance_no_effect", NOISE_FLOOR: "floor"}
        return pd.concat([first.assign(run=n, distance=first[of]) for n, of in columns.items()])

    def over_countries(self, name: str) -> pd.DataFrame:
        """Returns the rows of a table that are means over countries."""
        return self.tables[name].query("country == @ALL")


def find(everything: Sequence[Method], notes: Sequence[str], average: Average) -> Findings:
    """Builds every table; methods and references are on the same cells (`on_common_cells`)."""
    models = [one for one in everything if not one.first.identity.get("reference")]
    methods = models or list(everything)
    references = [one for one in everything if one not in methods]
    first, names = methods[0].first, [one.name for one in methods]
    seed, min_n = int(first.identity["seed"]), int(first.identity["data"]["min_n"])
    runs = [run for one in everything for run in one.seeds]
    questions, notes = known_questions(runs), list(notes)
    ceiling = cell_ceilings(first.predictions, seed)

    def cells_of(run: Run) -> pd.DataFrame:
        cells = scored_cells(run.predictions, questions, first.attributes)
        return cells.assign(ceiling=ceiling)

    apart = {one.name: [cells_of(run) for run in one.seeds] for one in (*methods, *references)}
    pooled = {name: _pooled(cells) for name, cells in apart.items()}
    of_methods = {name: apart[name] for name in names}
    tables = {
        "scores": _of_runs(pooled, partial(alignment_table, average=average)),
        "topics": _of_runs(pooled, partial(alignment_table, average=average, by=("topic",))),
        "gains": gain_table(apart, average, seed=seed),
    }
    if len(apart) > 1:
        tables["differences"] = difference_table(apart, average, seed=seed)
    countries = set(first.predictions["country"])
    tiers = {TIERS[country] for country in countries & set(TIERS)}
    scores = {name: tables["scores"].query("run == @name") for name in names}
    if untiered := sorted(countries - set(TIERS)):
        notes.append(f"No tier for {', '.join(untiered)}: the paper assigns 14 countries only.")
    if len(tiers) > 1:
        tables["tiers"] = tier_scores(scores)
    if {1, 3} <= tiers:
        tables["gaps"] = convergence(scores)
    if first.holds_out_personas:
        tables["composition"] = composition_table(of_methods, average, seed=seed)
    try:
        tables |= _effects(methods, questions, min_n, seed)
    except InputError as error:
        notes.append(f"Effects are missing: {error}.")
    audits = {one.name: audit for one in methods if (audit := one.audit) is not None}
    if audits:
        audit = pd.concat(audits, names=["run"]).reset_index("run")
        percent = {name: 100 * audit[name] for name in IN_AUDIT if name in audit}
        tables["audit"] = audit.assign(**percent)
    return Findings(
        tuple(methods),
        tuple(one.name for one in references),
        questions,
        average,
        tables,
        tuple(marks_of(runs)),
        tuple(notes),
    )


def _pooled(of_seeds: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([of.assign(seed=i) for i, of in enumerate(of_seeds)], ignore_index=True)


def _of_runs(of: Mapping[str, T], table: Callable[[T], pd.DataFrame]) -> pd.DataFrame:
    tables = [table(one).assign(run=name) for name, one in of.items()]
    return pd.concat(tables, ignore_index=True)


def _effects(
    methods: Sequence[Method], questions: pd.DataFrame, min_n: int, seed: int
) -> dict[str, pd.DataFrame]:
    """Builds the tables on effects. Raises InputError if there is no pair."""
    first = methods[0].first
    apart = {
        one.name: [effect_table(run.predictions, first.attributes, min_n) for run in one.seeds]
        for one in methods
    }
    pairs = apart[methods[0].name][0]
    same: dict[str, Any] = {
        "floor": effect_floors(first.predictions, pairs, seed),
        "topic": topics_of(pairs["question_id"], questions),
    }
    apart = {name: [of.assign(**same) for of in seeds] for name, seeds in apart.items()}
    pooled = {name: _pooled(seeds) for name, seeds in apart.items()}
    # Each seed is a model with its own effects. Shares are the mean of the seeds' shares: effects
    # averaged over seeds first would look better than those of any single model.
    by_seed = {
        name: pd.concat([effect_summary(of).query("country != @ALL") for of in seeds])
        for name, seeds in apart.items()
    }
    classes = [
        _of_runs(by_seed, partial(_classes, epsilon=epsilon)).assign(epsilon=epsilon)
        for epsilon in EPSILONS
    ]
    return {
        "effects": _of_runs(pooled, effect_summary),
        "effect_distances": _of_runs(pooled, _distances),
        "classes": pd.concat(classes, ignore_index=True),
    }


def _distances(pairs: pd.DataFrame) -> pd.DataFrame:
    """Returns mean effect distances by attribute and over all attributes."""
    tables = [effect_summary(of, ("attribute",)) for of in (pairs, pairs.assign(attribute=ALL))]
    return pd.concat(tables, ignore_index=True)


def _classes(effects: pd.DataFrame, epsilon: float) -> pd.DataFrame:
    """Returns the shares of classes over the effects of all seeds, by country and overall."""
    tables = [class_shares(of, epsilon) for of in (effects, effects.assign(country=ALL))]
    return pd.concat(tables, ignore_index=True)
